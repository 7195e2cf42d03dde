"""Pre-activation ResNet-50, for images of 32 pixels, in the form of github.com/weiaicunzai/pytorch-cifar100."""

_base_ = './preact_resnet50.py'
model = dict(backbone=dict(type='PreActResNet_CIFAR100Repo'), head=dict(num_classes=10))
