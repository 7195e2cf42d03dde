"""SE-ResNet-50 with the ImageNet stem; residual BatchNorms start at one, as in the other networks."""

_base_ = 'mmpretrain::_base_/models/seresnet50.py'
model = dict(type='CDSClassifier', backbone=dict(zero_init_residual=False))
