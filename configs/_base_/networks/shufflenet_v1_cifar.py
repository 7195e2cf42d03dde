"""ShuffleNetV1 (3 groups) for small images: its stem keeps the resolution."""

_base_ = './shufflenet_v1.py'
model = dict(backbone=dict(type='ShuffleNetV1_CIFAR'), head=dict(num_classes=10))
