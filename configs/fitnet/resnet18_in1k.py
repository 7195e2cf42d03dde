"""FitNet, ResNet-50 to ResNet-18, ImageNet-1k (Table 7 of the paper).

The second stage predicts the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/fitnet/resnet18_in1k.py
The paper of CDS states no setting of it; no weight is known for ImageNet; this one is that of CIFAR.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
