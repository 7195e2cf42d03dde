"""DSN, ResNet-18, ImageNet-1k (paper Table 3: 69.54, top-1).

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Ours: not run yet. Command: python tools/train.py configs/dsn/resnet18_in1k.py
Not in the paper: loss_weight (the plain sum) and the form of the classifiers, both our choice.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
