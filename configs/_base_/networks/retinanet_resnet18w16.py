"""RetinaNet with the backbone of the quickstart, for images of about 100 pixels."""

_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True, type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=16, stem_channels=16,
        zero_init_residual=False, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, start_level=1, num_outs=3),
    bbox_head=dict(
        num_classes=10, in_channels=64, stacked_convs=2, feat_channels=64,
        anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, strides=[4, 8, 16])))
