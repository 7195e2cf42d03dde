"""Plain training by a modern recipe, a small ResNet-10 on the embedded emoji in colour: mixing and smoothed labels.

The twin of configs/cds/resnet10w16_emoji-mixed.py: same network, schedule and view 0, cross-entropy alone.
Command: python tools/train.py configs/plain/resnet10w16_emoji-mixed.py
"""

# Often changed: model.train_cfg (mixing); model.head.loss.label_smooth_val; train_cfg.max_epochs (with
#   param_scheduler.1.end); train_dataloader.batch_size.
_base_ = './resnet10w16_emoji.py'
model = dict(
    head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]))
