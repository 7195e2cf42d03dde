"""SE-ResNet-18 with the CIFAR stem (3x3, stride 1)."""

_base_ = './seresnet18.py'
model = dict(backbone=dict(type='SEResNetBasic_CIFAR'), head=dict(num_classes=10))
