"""SE-ResNet-18 with the ImageNet stem."""

_base_ = './seresnet50.py'
model = dict(backbone=dict(type='SEResNetBasic', depth=18), head=dict(in_channels=512))
