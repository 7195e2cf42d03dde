"""Fashion-Scenes, of python tools/make_fashion_scenes.py: flip is the only augmentation."""

classes = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot')
data_root = '{{$MMCDS_DATA_ROOT:data}}/fashion_scenes'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale_factor=1.0),  # changes nothing; the heads ask for the factor
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(type='mmdet.PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale_factor=1.0),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmpretrain.CheckedCocoDataset', data_root=data_root, metainfo=dict(classes=classes),
        ann_file='annotations/train.json', data_prefix=dict(img='train/'), pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpretrain.CheckedCocoDataset', data_root=data_root, metainfo=dict(classes=classes),
        ann_file='annotations/test.json', data_prefix=dict(img='test/'), test_mode=True, pipeline=test_pipeline))
val_evaluator = dict(type='mmdet.CocoMetric', ann_file=f'{data_root}/annotations/test.json', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
