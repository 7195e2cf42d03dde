"""ImageNet-1k as in "ResNet strikes back", A3: one view of 160 pixels with RandAugment; tests at 224 pixels."""

_base_ = './in1k.py'

view_0 = [
    dict(type='RandomResizedCrop', scale=160, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=6,
         magnitude_std=0.5, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views=[view_0]),
    dict(type='PackSample')]
test_pipeline = [
    dict(type='LoadImage'),
    dict(type='ResizeEdge', scale=236, edge='short', backend='pillow', interpolation='bicubic'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackSample')]
train_dataloader = dict(
    batch_size=256,  # on each of 8 GPUs: 2,048 in all, which the learning rate is made for
    dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
