"""Plain training, ResNet-50 finetuned from ImageNet, FGVC Aircraft (Table 6 of the paper).

The twin of configs/cds/resnet50_aircraft-finetune.py: same network, schedule and view 0, cross-entropy alone.
First the backbone: python tools/train.py configs/plain/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_aircraft-finetune.py
Another backbone file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
Not in the paper: image size and batch (our choice), schedule (from MMPretrain), views (from the
released code for ImageNet).
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.ce_views.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/aircraft.py',
    '../_base_/schedules/finetune_100e.py', '../_base_/runtime.py']
checkpoint = '{{$MMCDS_BACKBONE:work_dirs/plain/resnet50_in1k/backbone_epoch_90.pth}}'
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    head=dict(num_classes={{_base_.num_classes}}))
