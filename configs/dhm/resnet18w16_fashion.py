"""DHM, a small ResNet-18 on the embedded Fashion-MNIST images.

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Not from the paper: the twin of configs/plain/resnet18w16_fashion.py, minutes on two cores.
Command: python tools/train.py configs/dhm/resnet18w16_fashion.py
"""

# Often changed: train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size;
#   model.supervisions.dhm.loss_weight, stochastic and trunk.
_base_ = [
    '../_base_/networks/resnet18w16_cifar.py', '../_base_/datasets/fashion.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(dhm=dict(type='DHMSupervision', taps=(1, 2), loss_weight=1.0, trunk='branch')))
