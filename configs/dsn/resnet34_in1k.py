"""DSN, ResNet-34, ImageNet-1k (Table 3 of the paper).

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Ours: not run yet. Command: python tools/train.py configs/dsn/resnet34_in1k.py
Not in the paper: loss_weight (the plain sum) and the form of the classifiers, both our choice.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
