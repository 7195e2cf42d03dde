"""ResNet-50 with the ImageNet stem; residual BatchNorms start at one, as in the released code."""

_base_ = 'mmpretrain::_base_/models/resnet50.py'
model = dict(type='CDSClassifier', backbone=dict(zero_init_residual=False))
