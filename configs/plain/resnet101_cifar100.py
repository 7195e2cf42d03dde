"""Plain training, ResNet-101, CIFAR-100 (Table 1 of the paper).

The twin of configs/cds/resnet101_cifar100.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet101_cifar100.py
"""

_base_ = './resnet18_cifar100.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
