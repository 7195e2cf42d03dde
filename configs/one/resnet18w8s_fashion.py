"""ONE, a small ResNet-18 of half the width, the embedded images.

Three copies of the last stage, taught by their own mixture; no teacher. "OKD" in the paper's tables.
Not from the paper: the student of configs/distill/resnet18w8s_fashion.py, minutes on two cores.
Ours: not run yet. Command: python tools/train.py configs/one/resnet18w8s_fashion.py
"""

_base_ = '../distill/resnet18w8s_fashion-plain.py'
model = dict(
    supervisions=dict(one=dict(type='ONESupervision', taps=(2,), num_branches=3, temperature=3.0)))
