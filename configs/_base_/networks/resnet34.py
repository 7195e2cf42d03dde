"""ResNet-34 with the ImageNet stem."""

_base_ = './resnet50.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
