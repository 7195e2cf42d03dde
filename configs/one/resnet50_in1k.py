"""ONE, ResNet-50, ImageNet-1k (in Table 7 for ResNet-18 alone).

Three copies of the last stage, taught by their own mixture; no teacher. "OKD" in the paper's tables.
Ours: not run yet. Command: python tools/train.py configs/one/resnet50_in1k.py
The paper of CDS states no setting of it; branches of the last stage as their paper says; no code for ImageNet was
released.
"""

# Often changed: model.supervisions.one.num_branches, temperature and ramp.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(one=dict(type='ONESupervision', taps=(2,), num_branches=3, temperature=3.0)))
