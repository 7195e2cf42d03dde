"""Pre-activation ResNet-50 with the ImageNet stem; stage outputs come after BatchNorm and ReLU."""

model = dict(
    type='CDSClassifier',
    backbone=dict(type='PreActResNet', depth=50),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=1000, in_channels=2048,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0), topk=(1, 5)))
