"""ONE, ResNet-18, CIFAR-100, as the distillation literature trains it.

Three copies of the last stage, taught by their own mixture; no teacher. "OKD" in the paper's tables.
Ours: not run yet. Command: python tools/train.py configs/one/resnet18_cifar100-240e.py
Not from the paper of CDS: 240 epochs, 64 images, plain crops; temperature and ramp from the authors' code; their
networks for CIFAR have three stages.
"""

_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_literature.py',
    '../_base_/schedules/cifar_240e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(one=dict(type='ONESupervision', taps=(2,), num_branches=3, temperature=3.0)))
