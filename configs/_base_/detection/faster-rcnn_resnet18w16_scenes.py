"""Faster R-CNN with the backbone of the quickstart on Fashion-Scenes: 1.7 M parameters, made for images of 96 pixels.

Read by all three starts, so that they differ in the first weights alone. Nothing is frozen and BatchNorm is trained
with the batch (8 images): a random start needs both, and on scenes the statistics of single centred items, which
pre-training kept, do not hold.
"""

_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py', '../datasets/fashion_scenes.py', '../schedules/scenes.py',
    'mmdet::_base_/default_runtime.py', './runtime.py']
model = dict(
    data_preprocessor=dict(  # that of pre-training, _base_/datasets/fashion.py
        mean=[72.94, 72.94, 72.94], std=[90.02, 90.02, 90.02]),
    backbone=dict(
        _delete_=True, type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=16, stem_channels=16,
        zero_init_residual=False, out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=64, start_level=2, num_outs=3),  # strides 4, 8, 16
    rpn_head=dict(
        in_channels=64, feat_channels=64,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16])),  # 24, 48 and 96 pixels
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, featmap_strides=[4, 8], finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=10)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)))
default_hooks = dict(
    **_base_.run_hooks,
    logger=dict(interval=25), checkpoint=dict(type='mmpretrain.SafeCheckpointHook', max_keep_ckpts=2))
