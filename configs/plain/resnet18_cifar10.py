"""Plain training, ResNet-18, CIFAR-10 (Table 2 of the paper).

The twin of configs/cds/resnet18_cifar10.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet18_cifar10.py
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.ce_views.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))
