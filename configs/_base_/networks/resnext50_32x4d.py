"""ResNeXt-50 (32x4d) with the ImageNet stem; residual BatchNorms start at one, as in the other networks."""

_base_ = 'mmpretrain::_base_/models/resnext50_32x4d.py'
model = dict(type='CDSClassifier', backbone=dict(zero_init_residual=False))
