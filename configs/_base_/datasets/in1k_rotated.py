"""ImageNet-1k, four views: the image, and its quarter turns after crops of their own; flipped once for all."""

_base_ = './in1k.py'

crop = [dict(type='RandomResizedCrop', scale=224)]
view_0 = crop
view_1 = [*crop, dict(type='RightAngleRotation', turns=1)]
view_2 = [*crop, dict(type='RightAngleRotation', turns=2)]
view_3 = [*crop, dict(type='RightAngleRotation', turns=3)]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='MultiViewTransform', views=[view_0, view_1, view_2, view_3]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
