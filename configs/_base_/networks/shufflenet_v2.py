"""ShuffleNetV2 (1x) with the ImageNet stem."""

_base_ = 'mmpretrain::_base_/models/shufflenet_v2_1x.py'
model = dict(type='CDSClassifier')
