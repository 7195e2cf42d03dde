"""DSN, a small ResNet-18 on the embedded Fashion-MNIST images.

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Not from the paper: the twin of configs/plain/resnet18w16_fashion.py, minutes on two cores.
Command: python tools/train.py configs/dsn/resnet18w16_fashion.py
"""

# Often changed: train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size;
#   model.supervisions.dsn.loss_weight, decay and trunk.
_base_ = [
    '../_base_/networks/resnet18w16_cifar.py', '../_base_/datasets/fashion.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(dsn=dict(type='DSNSupervision', taps=(0, 1, 2), loss_weight=1.0, trunk='sepconv')))
