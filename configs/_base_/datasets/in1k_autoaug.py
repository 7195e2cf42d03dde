"""ImageNet-1k, one view with AutoAugment after crop and flip."""

_base_ = './in1k.py'

view_0 = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies='imagenet')]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views=[view_0]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
