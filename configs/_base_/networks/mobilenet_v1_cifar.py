"""MobileNetV1 for small images: its first convolution has stride 1."""

_base_ = './mobilenet_v1.py'
model = dict(backbone=dict(stem_stride=1), head=dict(num_classes=10))
