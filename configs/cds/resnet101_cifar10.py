"""CDS, ResNet-101, CIFAR-10 (Table 2 of the paper).

The official preset: what the released code does, four heads of separable convolutions.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet101_cifar10.py
Not in the paper, from the released code: temperature 0.07, loss_weight 0.1, milestones, weight decay, views.
"""

_base_ = './resnet18_cifar10.py'
model = dict(backbone=dict(depth=101), head=dict(in_channels=2048))
