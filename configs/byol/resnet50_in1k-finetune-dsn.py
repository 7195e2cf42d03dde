"""BYOL and DSN, ResNet-50, ImageNet-1k, finetuning for 80 epochs (Table 9 of the paper: 78.2).

First: tools/dist_train.sh configs/byol/resnet50_in1k.py 16 --amp
Ours: not run yet. Command: python tools/train.py configs/byol/resnet50_in1k-finetune-dsn.py
Another file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
The number of epochs is inferred (1,080 in all); the paper gives no recipe: batch, learning rate, its schedule and the
weight of the auxiliary classifiers are ours.
"""

_base_ = './resnet50_in1k-finetune.py'
model = dict(supervisions=dict(dsn=dict(type='DSNSupervision', taps=(0, 1, 2), loss_weight=1.0, trunk='sepconv')))
