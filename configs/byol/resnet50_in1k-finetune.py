"""BYOL, ResNet-50, ImageNet-1k, finetuning for 80 epochs (Table 9 of the paper: 77.7).

First: tools/dist_train.sh configs/byol/resnet50_in1k.py 16 --amp
Ours: not run yet. Command: python tools/train.py configs/byol/resnet50_in1k-finetune.py
Another file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
The number of epochs is inferred (1,080 in all); the paper gives no recipe: batch, learning rate, its schedule and the
weight of decay are ours.
"""

_base_ = ['../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py', '../_base_/runtime.py']
checkpoint = '{{$MMCDS_BACKBONE:work_dirs/byol/resnet50_in1k/epoch_1000.pth}}'
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    head=dict(num_classes={{_base_.num_classes}}))
train_dataloader = dict(batch_size=128)  # on each of 8 GPUs: 1,024 in all
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=80, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=80, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1024)
