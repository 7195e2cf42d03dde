"""Plain training, a small ResNet-18 on the embedded Fashion-MNIST images.

The twin of configs/cds/resnet18w16_fashion.py: same network, schedule and view 0, cross-entropy alone.
Command: python tools/train.py configs/plain/resnet18w16_fashion.py
"""

# Often changed: train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size; model.ce_views.
_base_ = [
    '../_base_/networks/resnet18w16_cifar.py', '../_base_/datasets/fashion.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
