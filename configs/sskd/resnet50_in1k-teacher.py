"""SSKD, stage 1: the teacher learns to recognise rotated images, ImageNet-1k.

The network is frozen; a projection of its pooled feature is trained. The checkpoint is the teacher of stage 2.
First the network: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet50_in1k-teacher.py
Not in the paper of CDS: 30 epochs from torchdistill; its steps are not known.
"""

_base_ = ['../_base_/networks/resnet50.py', '../_base_/datasets/in1k_rotated.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    frozen=('backbone', 'neck', 'head'),
    supervisions=dict(sskd=dict(type='RotationSupervision')))
load_from = 'work_dirs/cds/resnet50_in1k/epoch_90.pth'
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[10, 20], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=30)  # its accuracy does not change
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=256)
