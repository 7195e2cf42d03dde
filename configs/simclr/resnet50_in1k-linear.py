"""SimCLR, ResNet-50, ImageNet-1k, stage 2: a linear classifier on the frozen encoder.

Not in the paper's tables; the schedule is MMPretrain's.
First the encoder: tools/dist_train.sh configs/simclr/resnet50_in1k.py 16 --amp
Ours: not run yet. Command: tools/dist_train.sh configs/simclr/resnet50_in1k-linear.py 8
"""

_base_ = ['../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}), frozen=('backbone', 'neck'))
load_from = 'work_dirs/simclr/resnet50_in1k/epoch_200.pth'
train_dataloader = dict(batch_size=512)  # on each of 8 GPUs
optim_wrapper = dict(optimizer=dict(type='LARS', lr=1.6, momentum=0.9, weight_decay=0.0))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=90, by_epoch=True, begin=0, end=90)]
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4096)
