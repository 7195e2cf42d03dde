"""Supervised baseline, a small ResNet-18, the embedded Fashion-MNIST images with 10 % of the labels.

The twin of configs/semi/resnet18w16s_fashion.py: the same labelled images, as many steps, view 0, cross-entropy alone.
Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/semi/resnet18w16s_fashion-plain.py
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels.
_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_few.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
