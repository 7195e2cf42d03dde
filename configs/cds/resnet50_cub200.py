"""CDS, ResNet-50 from scratch, CUB-200-2011 (Table 5 of the paper).

The official preset: what the released code does, four heads of separable convolutions.
The network has its max pooling, which the released code builds and never calls: model.backbone.type=UnpooledResNet.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_cub200.py
Not in the paper: image size and batch (our choice), schedule (from the released code for CIFAR),
temperature 0.07, loss_weight 0.1 and views (from the released code for ImageNet).
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/cub200_two_view.py',
    '../_base_/schedules/fine_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))
