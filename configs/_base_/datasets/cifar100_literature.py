"""CIFAR-100, one view as in the distillation literature: crop with a black border, flip, its own statistics."""

num_classes = 100
data_root = '{{$MMCDS_DATA_ROOT:data}}/cifar100'
# RGB, in grey levels
data_preprocessor = dict(
    num_classes=num_classes, mean=[129.2985, 124.1085, 112.404], std=[68.1615, 65.4075, 70.4055], to_rgb=True)

view_0 = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
load = dict(type='LoadImage', array_order='rgb')
train_pipeline = [load, dict(type='MultiViewTransform', views=[view_0]), dict(type='PackSample')]
test_pipeline = [load, dict(type='PackSample')]

train_dataloader = dict(
    batch_size=64,
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
