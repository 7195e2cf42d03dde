"""DKS, ResNet-50, CIFAR-100 (paper Table 1: 80.95, top-1).

Branches on two stages; all classifiers teach each other, in both directions.
Ours: not run yet. Command: python tools/train.py configs/dks/resnet50_cifar100.py
Not in the paper: weights and temperature (1) from the released code of DKS; branches from that of DHM.
"""

_base_ = './resnet18_cifar100.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
