"""DSN, ResNet-50, CIFAR-10 (Table 2 of the paper).

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Ours: not run yet. Command: python tools/train.py configs/dsn/resnet50_cifar10.py
Not in the paper: loss_weight (the plain sum) and the form of the classifiers, both our choice.
"""

_base_ = './resnet18_cifar10.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
