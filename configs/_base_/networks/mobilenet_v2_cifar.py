"""MobileNetV2 for small images: its stem keeps the resolution."""

_base_ = './mobilenet_v2.py'
model = dict(backbone=dict(type='MobileNetV2_CIFAR'), head=dict(num_classes=10))
