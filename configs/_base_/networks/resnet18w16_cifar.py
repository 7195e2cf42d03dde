"""ResNet-18 with the CIFAR stem and a quarter of the width (16 to 128 channels): 0.7 M parameters."""

_base_ = 'mmpretrain::_base_/models/resnet18_cifar.py'
model = dict(
    type='CDSClassifier',
    channels_last='auto',
    backbone=dict(base_channels=16, stem_channels=16, zero_init_residual=False),
    head=dict(in_channels=128))
