"""DHM, ResNet-50, CIFAR-100 (Table 1 of the paper).

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Ours: not run yet. Command: python tools/train.py configs/dhm/resnet50_cifar100.py
Not in the paper: weight, temperature (1) and branches from the released code of DHM.
"""

_base_ = './resnet18_cifar100.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
