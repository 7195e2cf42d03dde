"""ONE, ResNet-18, CIFAR-100 (not in the paper).

Three copies of the last stage, taught by their own mixture; no teacher. "OKD" in the paper's tables.
Ours: not run yet. Command: python tools/train.py configs/one/resnet18_cifar100.py
The paper of CDS states no setting of it; temperature and ramp from the authors' code; their networks for CIFAR have
three stages.
"""

# Often changed: model.supervisions.one.num_branches, temperature and ramp.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(one=dict(type='ONESupervision', taps=(2,), num_branches=3, temperature=3.0)))
