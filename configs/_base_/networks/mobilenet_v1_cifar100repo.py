"""MobileNetV1, for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './mobilenet_v1.py'
model = dict(backbone=dict(type='MobileNetV1_CIFAR100Repo'), head=dict(num_classes=10))
