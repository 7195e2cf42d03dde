"""Plain training, ResNet-101, CIFAR-10 (Table 2 of the paper).

The twin of configs/cds/resnet101_cifar10.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet101_cifar10.py
"""

_base_ = './resnet18_cifar10.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
