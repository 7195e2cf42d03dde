"""ShuffleNetV1 (3 groups) with the ImageNet stem."""

_base_ = 'mmpretrain::_base_/models/shufflenet_v1_1x.py'
model = dict(type='CDSClassifier')
