"""DHM, ResNet-18, CIFAR-100 (Table 1 of the paper).

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Ours: not run yet. Command: python tools/train.py configs/dhm/resnet18_cifar100.py
Not in the paper: weight, temperature (1) and branches from the released code of DHM.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.dhm.loss_weight, stochastic and trunk.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(dhm=dict(type='DHMSupervision', taps=(1, 2), loss_weight=1.0, trunk='branch')))
