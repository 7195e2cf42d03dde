"""Wide ResNet-50-2 with the ImageNet stem; residual BatchNorms start at one, as in the other networks."""

_base_ = 'mmpretrain::_base_/models/wide-resnet50.py'
model = dict(type='CDSClassifier', backbone=dict(zero_init_residual=False))
