"""ResNeXt-50 (32x4d), for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './resnext50_32x4d.py'
model = dict(backbone=dict(type='ResNeXt_CIFAR100Repo'), head=dict(num_classes=10))
