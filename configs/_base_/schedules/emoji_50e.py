"""The schedule of the embedded images, 50 epochs long, for the emoji."""

_base_ = './fashion_15e.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=True, begin=1, end=50, convert_to_iter_based=True)]
train_cfg = dict(max_epochs=50, val_interval=10)
