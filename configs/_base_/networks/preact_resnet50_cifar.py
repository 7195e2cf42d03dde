"""Pre-activation ResNet-50 with the CIFAR stem."""

_base_ = './preact_resnet50.py'
model = dict(backbone=dict(stem='cifar'), head=dict(num_classes=10))
