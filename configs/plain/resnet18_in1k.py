"""Plain training, ResNet-18, ImageNet-1k (paper Table 3: 69.21, top-1).

The twin of configs/cds/resnet18_in1k.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet18_in1k.py
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
