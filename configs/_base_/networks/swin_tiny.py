"""Swin-T; the losses compare views and classes, so MMPretrain's mixing of images is off."""

_base_ = 'mmpretrain::_base_/models/swin_transformer/tiny_224.py'
model = dict(type='CDSClassifier', train_cfg=None)
