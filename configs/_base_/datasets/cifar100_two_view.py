"""CIFAR-100, the two views of the released code: Cutout on view 0, colour on view 1."""

num_classes = 100
data_root = '{{$MMCDS_DATA_ROOT:data}}/cifar100'
# The released code uses the statistics of CIFAR-10 for CIFAR-100 too. RGB, in grey levels.
data_preprocessor = dict(
    num_classes=num_classes, mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255], to_rgb=True)

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(128, 128, 128)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='CenteredCutout', length=16)]
view_1 = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
load = dict(type='LoadImage', array_order='rgb')
train_pipeline = [load, dict(type='MultiViewTransform', views=[view_0, view_1]), dict(type='PackSample')]
test_pipeline = [load, dict(type='PackSample')]

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='InMemoryCIFAR100', data_root=data_root, split='train', download=True, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=256,
    num_workers=2,
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='InMemoryCIFAR100', data_root=data_root, split='test', test_mode=True, download=True,
        pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
