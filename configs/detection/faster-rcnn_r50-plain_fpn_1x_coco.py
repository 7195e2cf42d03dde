"""Faster R-CNN, ResNet-50-FPN, COCO, backbone pre-trained with cross-entropy alone (Table 4 of the paper).

First the backbone: python tools/train.py configs/plain/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/detection/faster-rcnn_r50-plain_fpn_1x_coco.py
Another backbone file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
Not in the paper: schedule, frozen stages, BatchNorm mode and learning rate; all are MMDetection's 1x baseline.
"""

_base_ = '../_base_/detection/faster-rcnn_r50_fpn_1x_coco.py'
checkpoint = '{{$MMCDS_BACKBONE:work_dirs/plain/resnet50_in1k/backbone_epoch_90.pth}}'
model = dict(backbone=dict(init_cfg=dict(checkpoint=checkpoint)))
