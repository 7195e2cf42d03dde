"""CDS, ResNet-50, ImageNet-1k (Table 3 of the paper).

The official preset: what the released code does, four heads of separable convolutions.
The network has its max pooling, which the released code builds and never calls: model.backbone.type=UnpooledResNet.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_in1k.py
Not in the paper, from the released code: temperature 0.07, loss_weight 0.1, milestones, weight decay, views.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_two_view.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))
