"""ImageNet-1k, the two views of the released code with AutoAugment after the flip of each."""

_base_ = './in1k_two_view.py'

view_0 = [
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies='imagenet')]
view_1 = [
    dict(type='RandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies='imagenet'),
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
train_pipeline = [
    dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views=[view_0, view_1]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
