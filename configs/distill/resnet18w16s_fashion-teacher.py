"""CDS teacher of configs/distill/resnet18w8s_fashion.py: ResNet-18, twice the student's width, embedded images.

Teacher, students and all other methods in one command, compared: python tools/paper.py run table8 --scale mini.
Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/distill/resnet18w16s_fashion-teacher.py
"""

_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_two_view.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))
