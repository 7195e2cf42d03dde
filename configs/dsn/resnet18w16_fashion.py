"""DSN, a small ResNet-18 on the embedded Fashion-MNIST images.

The twin of configs/cds/resnet18w16_fashion.py: same network, schedule and view 0; auxiliary classifiers on three
stages, whose trunk is that of the CDS head. Ours: 89.05 % top-1 with seed 0.
Command: python tools/train.py configs/dsn/resnet18w16_fashion.py
"""

# Often changed: train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size;
#   model.supervisions.dsn.loss_weight, decay and trunk.
_base_ = [
    '../_base_/networks/resnet18w16_cifar.py', '../_base_/datasets/fashion.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(supervisions=dict(dsn=dict(type='DSNSupervision', taps=(0, 1, 2), loss_weight=1.0, trunk='sepconv')))
