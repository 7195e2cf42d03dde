"""ResNet-10 with the CIFAR stem and 16 to 128 channels: the network of the mini scale, 0.3 M parameters."""

_base_ = './resnet18w16_cifar.py'
model = dict(backbone=dict(type='ShallowResNet_CIFAR', depth=10))
