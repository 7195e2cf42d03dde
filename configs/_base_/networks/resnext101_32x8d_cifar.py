"""ResNeXt-101 (32x8d) with the CIFAR stem (3x3, stride 1)."""

_base_ = './resnext101_32x8d.py'
model = dict(backbone=dict(type='ResNeXt_CIFAR'), head=dict(num_classes=10))
