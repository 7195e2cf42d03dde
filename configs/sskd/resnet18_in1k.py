"""SSKD, ResNet-50 to ResNet-18, ImageNet-1k (Table 7 of the paper).

Logits and similarities of rotated images follow the teacher's.
First the teacher: python tools/train.py configs/sskd/resnet50_in1k-teacher.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18_in1k.py
The paper of CDS states no setting of it; weights 1, 0.9, 2.7 and 10 from torchdistill.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
