"""ResNet-18 with the CIFAR stem (3x3, stride 1); residual BatchNorms start at one, as in the released code."""

_base_ = 'mmpretrain::_base_/models/resnet18_cifar.py'
model = dict(type='CDSClassifier', backbone=dict(zero_init_residual=False))
