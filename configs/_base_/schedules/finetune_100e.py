"""Fine-grained sets, finetuned: 100 epochs at 64 images, lr 0.01, cosine after five epochs of warm-up.

The paper gives none; this is MMPretrain's own for ResNet-50 on CUB-200-2011.
"""

_base_ = 'mmpretrain::_base_/schedules/cub_bs64.py'
