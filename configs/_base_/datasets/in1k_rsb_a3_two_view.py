"""ImageNet-1k as in "ResNet strikes back", A3, and a second view: a crop of its own, with the colours of CDS."""

_base_ = './in1k_rsb_a3.py'

view_0 = [
    dict(type='RandomResizedCrop', scale=160, backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandAugment', policies='timm_increasing', num_policies=2, total_level=10, magnitude_level=6,
         magnitude_std=0.5, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))]
view_1 = [
    dict(type='RandomResizedCrop', scale=160, crop_ratio_range=(0.2, 1.0), backend='pillow', interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views=[view_0, view_1]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
