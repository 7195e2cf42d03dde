"""DHM, ResNet-18, ImageNet-1k (paper Table 3: 71.29, top-1).

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Ours: not run yet. Command: python tools/train.py configs/dhm/resnet18_in1k.py
Not in the paper: weight, temperature (1) and branches from the released code of DHM.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
