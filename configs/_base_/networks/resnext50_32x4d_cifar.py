"""ResNeXt-50 (32x4d) with the CIFAR stem (3x3, stride 1)."""

_base_ = './resnext50_32x4d.py'
model = dict(backbone=dict(type='ResNeXt_CIFAR'), head=dict(num_classes=10))
