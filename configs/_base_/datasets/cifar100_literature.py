"""CIFAR-100, one view as in the distillation literature: crop with a black border, flip, its own statistics."""

_base_ = './cifar100.py'
data_preprocessor = dict(  # RGB, in grey levels
    mean=[129.2985, 124.1085, 112.404], std=[68.1615, 65.4075, 70.4055])

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
train_pipeline = [
    dict(type='LoadImage', array_order='rgb'), dict(type='MultiViewTransform', views=[view_0]),
    dict(type='PackSample')]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
