"""SE-ResNet-18, for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './seresnet18.py'
model = dict(backbone=dict(type='SEResNet_CIFAR100Repo'), head=dict(num_classes=10))
