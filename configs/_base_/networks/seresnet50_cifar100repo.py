"""SE-ResNet-50, for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './seresnet50.py'
model = dict(backbone=dict(type='SEResNet_CIFAR100Repo'), head=dict(num_classes=10))
