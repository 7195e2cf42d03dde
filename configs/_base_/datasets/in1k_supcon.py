"""ImageNet-1k, two views of one policy, as SupCon trains its encoder: crop, flip, AutoAugment."""

_base_ = './in1k_two_view.py'

view = [
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies='imagenet')]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views=[view, view]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
