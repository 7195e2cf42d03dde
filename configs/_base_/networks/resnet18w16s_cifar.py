"""ResNet-18 with the CIFAR stem, 16 to 128 channels, whose first stage halves the image too: a third of the time."""

_base_ = './resnet18w16_cifar.py'
model = dict(backbone=dict(strides=(2, 2, 2, 2)))
