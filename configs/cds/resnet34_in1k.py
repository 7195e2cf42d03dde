"""CDS, ResNet-34, ImageNet-1k (Table 3 of the paper).

The official preset: what the released code does, four heads of separable convolutions.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet34_in1k.py
Not in the paper, from the released code: temperature 0.07, loss_weight 0.1, milestones, weight decay, views.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
