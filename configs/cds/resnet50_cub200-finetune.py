"""CDS, ResNet-50 finetuned from ImageNet, CUB-200-2011 (Table 6 of the paper).

The official preset: what the released code does, four heads of separable convolutions.
The network has its max pooling, which the released code builds and never calls: model.backbone.type=UnpooledResNet.
First the backbone: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_cub200-finetune.py
Another backbone file: MMCDS_BACKBONE=FILE, or --cfg-options model.backbone.init_cfg.checkpoint=FILE.
Not in the paper: image size and batch (our choice), schedule (from MMPretrain),
temperature 0.07, loss_weight 0.1 and views (from the released code for ImageNet).
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/cub200_two_view.py',
    '../_base_/schedules/finetune_100e.py', '../_base_/runtime.py']
checkpoint = '{{$MMCDS_BACKBONE:work_dirs/cds/resnet50_in1k/backbone_epoch_90.pth}}'
model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))
