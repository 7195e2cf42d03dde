"""SupCon, ResNet-50, ImageNet-1k, stage 2: a linear classifier on the frozen encoder (Table 9 of the paper).

First the encoder: tools/dist_train.sh configs/supcon/resnet50_in1k.py 8 --amp
Ours: not run yet. Command: python tools/train.py configs/supcon/resnet50_in1k-linear.py
Epochs, steps, learning rate and batch from the authors' code, which is for CIFAR.
"""

_base_ = ['../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}), frozen=('backbone', 'neck'))
load_from = 'work_dirs/supcon/resnet50_in1k/epoch_350.pth'
train_dataloader = dict(batch_size=64)  # on each of 8 GPUs
optim_wrapper = dict(optimizer=dict(type='SGD', lr=5.0, momentum=0.9, weight_decay=0.0))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[60, 75, 90], gamma=0.2)]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=512)
