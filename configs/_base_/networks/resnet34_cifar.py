"""ResNet-34 with the CIFAR stem."""

_base_ = './resnet18_cifar.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
