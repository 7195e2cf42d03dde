"""SE-ResNet-101 with the CIFAR stem (3x3, stride 1)."""

_base_ = './seresnet101.py'
model = dict(backbone=dict(type='SEResNet_CIFAR'), head=dict(num_classes=10))
