"""ResNeXt-101 (32x8d) with the ImageNet stem."""

_base_ = './resnext50_32x4d.py'
model = dict(backbone=dict(depth=101, width_per_group=8))
