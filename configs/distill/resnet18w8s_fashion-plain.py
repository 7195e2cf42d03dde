"""The student of configs/distill/resnet18w8s_fashion.py with cross-entropy on view 0 alone, the embedded images.

Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/distill/resnet18w8s_fashion-plain.py
"""

_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(backbone=dict(base_channels=8, stem_channels=8), head=dict(in_channels=64))
