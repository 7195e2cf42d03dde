"""DSN, ResNet-50, CIFAR-100 (Table 1 of the paper).

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Ours: not run yet. Command: python tools/train.py configs/dsn/resnet50_cifar100.py
Not in the paper: loss_weight (the plain sum) and the form of the classifiers, both our choice.
"""

_base_ = './resnet18_cifar100.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
