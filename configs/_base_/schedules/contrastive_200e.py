"""LARS for a contrastive encoder, MMPretrain's SimCLR: 200 epochs at 4,096 images, ten of warm-up; norms and biases as they are."""

optim_wrapper = dict(
    optimizer=dict(type='LARS', lr=4.8, momentum=0.9, weight_decay=1e-6),
    paramwise_cfg=dict(custom_keys={
        'bn': dict(decay_mult=0, lars_exclude=True),
        'bias': dict(decay_mult=0, lars_exclude=True),
        'downsample.1': dict(decay_mult=0, lars_exclude=True)}))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=190, by_epoch=True, begin=10, end=200)]
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=200)  # there is no classifier to validate
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=4096)
