"""ResNet-18 with the ImageNet stem."""

_base_ = './resnet50.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
