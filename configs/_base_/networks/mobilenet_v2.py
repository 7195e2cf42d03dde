"""MobileNetV2 with the ImageNet stem."""

_base_ = 'mmpretrain::_base_/models/mobilenet_v2_1x.py'
model = dict(type='CDSClassifier')
