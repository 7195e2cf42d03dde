"""The student of configs/distill/resnet18w8s_fashion.py with CDS and without a teacher, the embedded images.

Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/distill/resnet18w8s_fashion-cds.py
"""

_base_ = './resnet18w8s_fashion.py'
model = dict(teacher=None, supervisions=dict(embedding=None, logit=None))
