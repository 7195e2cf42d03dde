"""Supervised baseline, cross-entropy on both views, the embedded Fashion-MNIST images, 10 % of the labels.

Shows what the second augmentation alone gives: like resnet18w16s_fashion-plain.py, with twice the data per step.
Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/semi/resnet18w16s_fashion-two_view.py
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels.
_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_semi.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
train_dataloader = dict(batch_size=64, batch_sampler=dict(num_unlabelled=0))
model = dict(ce_views=(0, 1))
