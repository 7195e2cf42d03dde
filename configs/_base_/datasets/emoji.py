"""The embedded emoji in 58 classes, tested on a style that no training image has; one view: crop and flip."""

num_classes = 58
data_preprocessor = dict(  # RGB, in grey levels; statistics of the training images
    num_classes=num_classes, mean=[182.40, 171.72, 157.48], std=[57.08, 51.33, 64.12], to_rgb=True)

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(182, 172, 157)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
load = dict(type='LoadImage', array_order='rgb')
train_pipeline = [load, dict(type='MultiViewTransform', views=[view_0]), dict(type='PackSample')]
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
