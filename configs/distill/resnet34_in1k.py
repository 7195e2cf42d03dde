"""Distillation with CDS, ResNet-50 to ResNet-34, ImageNet-1k (Eq. 8 and 9, Table 7 of the paper).

First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/distill/resnet34_in1k.py
Not in the paper, from the released code: the teacher, lambda1 and lambda2 0.5, lambda3 1, temperature 1, view 0
alone for logits, milestones, weight decay, views.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
