"""RetinaNet, a small ResNet-18, Fashion-Scenes, backbone pre-trained with CDS.

Not from the paper: its Table 4 in minutes on one core. All starts and seeds: python tools/scenes_transfer.py.
First the scenes: python tools/make_fashion_scenes.py
Then the backbone: python tools/train.py configs/cds/resnet18w16_fashion.py
Another backbone file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
Ours: AP 48.0 with seed 0, see docs/fashion_scenes.md.
Command: python tools/train.py configs/detection/retinanet_resnet18w16_scenes-cds.py
"""

_base_ = '../_base_/detection/retinanet_resnet18w16_scenes.py'
checkpoint = '{{$MMCDS_BACKBONE:work_dirs/cds/resnet18w16_fashion/backbone_epoch_15.pth}}'
model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)))
