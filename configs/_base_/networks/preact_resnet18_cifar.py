"""Pre-activation ResNet-18 with the CIFAR stem."""

_base_ = './preact_resnet18.py'
model = dict(backbone=dict(stem='cifar'), head=dict(num_classes=10))
