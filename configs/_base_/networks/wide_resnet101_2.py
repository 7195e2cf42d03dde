"""Wide ResNet-101-2 with the ImageNet stem."""

_base_ = './wide_resnet50_2.py'
model = dict(backbone=dict(depth=101))
