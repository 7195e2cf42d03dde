"""RetinaNet, ResNet-50-FPN, 1x schedule, COCO 2017: MMDetection's baseline with one of our backbones.

Frozen stages, BatchNorm in evaluation mode, learning rate, schedule and views are MMDetection's own.
"""

_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './runtime.py']
data_root = '{{$MMCDS_DATA_ROOT:data}}/coco'

default_hooks = dict(
    **_base_.run_hooks,
    checkpoint=dict(type='mmpretrain.SafeCheckpointHook', max_keep_ckpts=2, save_best='coco/bbox_mAP'))
train_dataloader = dict(
    persistent_workers=False,  # workers that stay would repeat their augmentations, see EpochSeedHook
    worker_init_fn=dict(type='seed_worker'),
    dataset=dict(
        type='mmpretrain.CheckedCocoDataset', data_root=data_root,
        max_empty_boxes=10))  # train2017 has two boxes without area
val_dataloader = dict(
    persistent_workers=False, dataset=dict(type='mmpretrain.CheckedCocoDataset', data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=f'{data_root}/annotations/instances_val2017.json')
test_evaluator = val_evaluator
