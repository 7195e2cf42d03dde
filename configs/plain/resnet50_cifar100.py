"""Plain training, ResNet-50, CIFAR-100 (paper Table 1: 77.81, top-1).

The twin of configs/cds/resnet50_cifar100.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_cifar100.py
"""

_base_ = './resnet18_cifar100.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
