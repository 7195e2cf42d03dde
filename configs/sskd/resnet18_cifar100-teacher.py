"""SSKD, stage 1: the teacher learns to recognise rotated images, CIFAR-100.

The network is frozen; a projection of its pooled feature is trained. The checkpoint is the teacher of stage 2.
First the network: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18_cifar100-teacher.py
Not in the paper of CDS: 60 epochs, steps and learning rate from the authors' code.
"""

_base_ = [
    '../_base_/networks/resnet50_cifar.py', '../_base_/datasets/cifar100_rotated.py',
    '../_base_/schedules/sskd_60e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    frozen=('backbone', 'neck', 'head'),
    supervisions=dict(sskd=dict(type='RotationSupervision')))
load_from = 'work_dirs/cds/resnet50_cifar100/epoch_300.pth'
train_dataloader = dict(batch_size=64)
