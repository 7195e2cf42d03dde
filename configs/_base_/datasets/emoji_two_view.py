"""The embedded emoji in 58 classes, tested on a style that no training image has; colour and grey on view 1."""

num_classes = 58
data_preprocessor = dict(  # RGB, in grey levels; statistics of the training images
    num_classes=num_classes, mean=[182.40, 171.72, 157.48], std=[57.08, 51.33, 64.12], to_rgb=True)

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(182, 172, 157)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
view_1 = [
    *view_0,
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
load = dict(type='LoadImage', array_order='rgb')
train_pipeline = [load, dict(type='MultiViewTransform', views=[view_0, view_1]), dict(type='PackSample')]
test_pipeline = [load, dict(type='PackSample')]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # whole batches are made at once: processes would only compete for the cores
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='EmbeddedEmoji', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=274,
    num_workers=0,
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='EmbeddedEmoji', split='val', pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = dict(
    batch_size=274,
    num_workers=0,
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='EmbeddedEmoji', split='test', pipeline=test_pipeline))
test_evaluator = val_evaluator
