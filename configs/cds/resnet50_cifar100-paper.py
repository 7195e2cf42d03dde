"""CDS, paper preset, ResNet-50, CIFAR-100 (paper Table 1: 81.31, top-1).

The preset of the text: K-1 heads, convolutions followed by a non-linear projection. Its width (128) is not
in the paper.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_cifar100-paper.py
Not in the paper, from the released code: temperature 0.07, loss_weight 0.1, milestones, weight decay, views.
"""

_base_ = './resnet18_cifar100-paper.py'
model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
