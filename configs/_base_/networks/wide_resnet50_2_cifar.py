"""Wide ResNet-50-2 with the CIFAR stem (3x3, stride 1)."""

_base_ = './wide_resnet50_2.py'
model = dict(backbone=dict(type='ResNet_CIFAR'), head=dict(num_classes=10))
