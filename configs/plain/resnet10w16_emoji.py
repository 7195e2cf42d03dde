"""Plain training, a small ResNet-10 on the embedded emoji in colour.

The twin of configs/cds/resnet10w16_emoji.py: same network, schedule and view 0, cross-entropy alone.
Command: python tools/train.py configs/plain/resnet10w16_emoji.py
"""

# Often changed: train_dataloader.dataset.classes (with num_classes of head and preprocessor) and held_out, the same in
#   val_ and test_dataloader; train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size.
_base_ = [
    '../_base_/networks/resnet10w16_cifar.py', '../_base_/datasets/emoji.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=True, begin=1, end=50, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=50, val_interval=10)
model = dict(head=dict(num_classes={{_base_.num_classes}}))
