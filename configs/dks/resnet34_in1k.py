"""DKS, ResNet-34, ImageNet-1k (Table 3 of the paper).

Branches on two stages; all classifiers teach each other, in both directions.
Ours: not run yet. Command: python tools/train.py configs/dks/resnet34_in1k.py
Not in the paper: weights and temperature (1) from the released code of DKS; branches from that of DHM.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
