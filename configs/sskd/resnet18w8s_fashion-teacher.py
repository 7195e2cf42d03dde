"""SSKD, stage 1: the teacher learns to recognise rotated images, the embedded images.

The network is frozen; a projection of its pooled feature is trained. The checkpoint is the teacher of stage 2.
First the network: python tools/train.py configs/distill/resnet18w16s_fashion-teacher.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18w8s_fashion-teacher.py
Not in the paper of CDS: five epochs are ours.
"""

_base_ = ['../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_rotated.py', '../_base_/runtime.py']
model = dict(
    frozen=('backbone', 'neck', 'head'),
    supervisions=dict(sskd=dict(type='RotationSupervision')))
load_from = 'work_dirs/distill/resnet18w16s_fashion-teacher/epoch_15.pth'
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[3, 4], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=5, val_interval=5)  # its accuracy does not change
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
