"""CIFAR-100 as in the distillation literature, four views: the image, and its quarter turns after crops of their own; flipped once for all."""

_base_ = './cifar100_literature.py'

crop = [dict(type='RandomCrop', crop_size=32, padding=4)]
view_0 = crop
view_1 = [*crop, dict(type='RightAngleRotation', turns=1)]
view_2 = [*crop, dict(type='RightAngleRotation', turns=2)]
view_3 = [*crop, dict(type='RightAngleRotation', turns=3)]
train_pipeline = [
    dict(type='LoadImage', array_order='rgb'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='MultiViewTransform', views=[view_0, view_1, view_2, view_3]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
