"""Plain training, ResNet-34, ImageNet-1k (Table 3 of the paper).

The twin of configs/cds/resnet34_in1k.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet34_in1k.py
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))
