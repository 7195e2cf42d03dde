"""USKD, ResNet-18, CIFAR-100. Not in the paper: a method that came later.

Labels softened by the network's own logits and those of a weak classifier on the last stage but one; no teacher.
Ours: not run yet. Command: python tools/train.py configs/uskd/resnet18_cifar100.py
The weights are those of the authors' config for this network and data set, beside a whole cross-entropy.
"""

# Often changed: model.supervisions.uskd.alpha, beta and mu.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(uskd=dict(type='USKDSupervision', taps=(2,), alpha=0.1, beta=0.1, mu=0.1)))
