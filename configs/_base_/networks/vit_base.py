"""ViT-B/16; its label smoothing written so that unlabelled rows can be left out."""

_base_ = 'mmpretrain::_base_/models/vit-base-p16.py'
model = dict(type='CDSClassifier')
