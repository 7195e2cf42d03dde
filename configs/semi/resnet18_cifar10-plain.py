"""Supervised baseline, ResNet-18, CIFAR-10 with 10 % of the labels (Figure 2 of the paper).

The twin of configs/semi/resnet18_cifar10.py: the same labelled images, as many steps, view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/semi/resnet18_cifar10-plain.py
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar10_few.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))
