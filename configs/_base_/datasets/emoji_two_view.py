"""The embedded emoji in 58 classes, tested on a style that no training image has; colour and grey on view 1."""

_base_ = './emoji.py'

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(182, 172, 157)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
view_1 = [
    *view_0,
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
train_pipeline = [
    dict(type='LoadImage', array_order='rgb'),
    dict(type='MultiViewTransform', views=[view_0, view_1]),
    dict(type='PackSample')]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
