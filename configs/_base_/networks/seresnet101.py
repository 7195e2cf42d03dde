"""SE-ResNet-101 with the ImageNet stem."""

_base_ = './seresnet50.py'
model = dict(backbone=dict(depth=101))
