"""CRD, ResNet-50 to ResNet-18, ImageNet-1k (Table 7 of the paper).

Features of an image agree with the teacher's, against a memory of all images.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/crd/resnet18_in1k.py
The paper of CDS states no setting of it; weight, temperature, number of negatives and drawing with replacement from
the authors' code.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
