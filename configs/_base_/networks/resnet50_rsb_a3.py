"""ResNet-50 as in "ResNet strikes back", A3: mixed images, and binary cross-entropy for every class."""

_base_ = './resnet50.py'
model = dict(
    head=dict(loss=dict(type='CrossEntropyLoss', use_sigmoid=True)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.1), dict(type='CutMix', alpha=1.0)]))
