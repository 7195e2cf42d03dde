"""The embedded Fashion-MNIST images, one view: crop and flip."""

num_classes = 10
data_preprocessor = dict(  # grey images repeated over three channels; statistics of the full training set
    num_classes=num_classes, mean=[72.94, 72.94, 72.94], std=[90.02, 90.02, 90.02], to_rgb=True)

view_0 = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
train_pipeline = [
    dict(type='LoadImage'), dict(type='MultiViewTransform', views=[view_0]), dict(type='PackSample')]
test_pipeline = [dict(type='LoadImage'), dict(type='PackSample')]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='EmbeddedFashionMNIST', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=250,
    num_workers=1,
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='EmbeddedFashionMNIST', split='test', test_mode=True, pipeline=test_pipeline))
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
