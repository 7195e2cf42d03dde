"""DKS, ResNet-50, CIFAR-10 (Table 2 of the paper).

Branches on two stages; all classifiers teach each other, in both directions.
Ours: not run yet. Command: python tools/train.py configs/dks/resnet50_cifar10.py
Not in the paper: weights and temperature (1) from the released code of DKS; branches from that of DHM.
"""

_base_ = './resnet18_cifar10.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
