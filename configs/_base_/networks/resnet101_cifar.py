"""ResNet-101 with the CIFAR stem."""

_base_ = './resnet18_cifar.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
