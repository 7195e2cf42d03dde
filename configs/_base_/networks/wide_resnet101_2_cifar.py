"""Wide ResNet-101-2 with the CIFAR stem (3x3, stride 1)."""

_base_ = './wide_resnet101_2.py'
model = dict(backbone=dict(type='ResNet_CIFAR'), head=dict(num_classes=10))
