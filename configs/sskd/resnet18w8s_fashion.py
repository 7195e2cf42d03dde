"""SSKD, a small ResNet-18 to one of half the width, the embedded images.

Logits and similarities of rotated images follow the teacher's.
First the teacher: python tools/train.py configs/sskd/resnet18w8s_fashion-teacher.py
Not from the paper: the student of configs/distill/resnet18w8s_fashion.py, minutes on two cores.
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18w8s_fashion.py
"""

_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_rotated.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    backbone=dict(base_channels=8, stem_channels=8),
    head=dict(in_channels=64, loss=dict(loss_weight=0.1)),
    teacher=dict(
        config='mmcds::sskd/resnet18w8s_fashion-teacher.py',
        checkpoint='work_dirs/sskd/resnet18w8s_fashion-teacher/epoch_5.pth'),
    supervisions=dict(sskd=dict(type='SSKDSupervision')))
