"""RetinaNet with the backbone of the quickstart on Fashion-Scenes: 1.1 M parameters, made for images of 96 pixels.

Read by all three starts, so that they differ in the first weights alone. Nothing is frozen and BatchNorm is trained
with the batch (8 images): a random start needs both, and on scenes the statistics of single centred items, which
pre-training kept, do not hold.
"""

_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py', '../datasets/fashion_scenes.py', '../schedules/scenes.py',
    'mmdet::_base_/default_runtime.py', './runtime.py']
model = dict(
    data_preprocessor=dict(  # that of pre-training, _base_/datasets/fashion.py
        mean=[72.94, 72.94, 72.94], std=[90.02, 90.02, 90.02]),
    backbone=dict(
        _delete_=True, type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=16, stem_channels=16,
        zero_init_residual=False, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, start_level=2, num_outs=3),  # strides 4, 8, 16
    bbox_head=dict(
        num_classes=10, in_channels=64, stacked_convs=2, feat_channels=64,
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, strides=[4, 8, 16])))  # 16 to 91 pixels
default_hooks = dict(
    **_base_.run_hooks,
    logger=dict(interval=25), checkpoint=dict(type='mmpretrain.SafeCheckpointHook', max_keep_ckpts=2))
