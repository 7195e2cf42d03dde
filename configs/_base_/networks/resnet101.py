"""ResNet-101 with the ImageNet stem."""

_base_ = './resnet50.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
