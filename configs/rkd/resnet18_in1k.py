"""RKD, ResNet-50 to ResNet-18, ImageNet-1k (Table 7 of the paper).

Distances and angles between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/rkd/resnet18_in1k.py
The paper of CDS states no setting of it; weights 25 and 50 from MMRazor, which compares features of unit length
(normalise=True).
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
