"""DHM, ResNet-34, ImageNet-1k (Table 3 of the paper).

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Ours: not run yet. Command: python tools/train.py configs/dhm/resnet34_in1k.py
Not in the paper: weight, temperature (1) and branches from the released code of DHM.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
