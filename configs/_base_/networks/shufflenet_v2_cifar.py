"""ShuffleNetV2 (1x) for small images: its stem keeps the resolution."""

_base_ = './shufflenet_v2.py'
model = dict(backbone=dict(type='ShuffleNetV2_CIFAR'), head=dict(num_classes=10))
