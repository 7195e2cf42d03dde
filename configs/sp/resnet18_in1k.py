"""SP, ResNet-50 to ResNet-18, ImageNet-1k (Table 7 of the paper).

Images that are alike for the teacher are alike for the student.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/sp/resnet18_in1k.py
The paper of CDS states no setting of it; weight 1 from torchdistill; none else is known for ImageNet.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
