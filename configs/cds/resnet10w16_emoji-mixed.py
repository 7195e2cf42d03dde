"""CDS in a modern recipe, a small ResNet-10 on the embedded emoji in colour: mixing and smoothed labels.

Not from the paper. Cross-entropy sees mixed images of view 0; the contrast compares both views as they are.
Command: python tools/train.py configs/cds/resnet10w16_emoji-mixed.py
"""

# Often changed: model.train_cfg (mixing); model.head.loss.label_smooth_val; train_cfg.max_epochs (with
#   param_scheduler.1.end); model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.neck.head.
_base_ = './resnet10w16_emoji.py'
model = dict(
    head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]))
