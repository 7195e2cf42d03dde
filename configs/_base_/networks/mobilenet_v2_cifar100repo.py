"""MobileNetV2, for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './mobilenet_v2.py'
model = dict(backbone=dict(_delete_=True, type='MobileNetV2_CIFAR100Repo'), head=dict(num_classes=10))
