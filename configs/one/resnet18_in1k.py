"""ONE, ResNet-18, ImageNet-1k (Table 7 of the paper).

Three copies of the last stage, taught by their own mixture; no teacher. "OKD" in the paper's tables.
Ours: not run yet. Command: python tools/train.py configs/one/resnet18_in1k.py
The paper of CDS states no setting of it; branches of the last stage as their paper says; no code for ImageNet was
released.
"""

_base_ = './resnet50_in1k.py'
model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
