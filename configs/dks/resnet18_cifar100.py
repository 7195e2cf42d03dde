"""DKS, ResNet-18, CIFAR-100 (Table 1 of the paper).

Branches on two stages; all classifiers teach each other, in both directions.
Ours: not run yet. Command: python tools/train.py configs/dks/resnet18_cifar100.py
Not in the paper: weights and temperature (1) from the released code of DKS; branches from that of DHM.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.dks.loss_weight, direction and trunk.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(dks=dict(type='DKSSupervision', taps=(1, 2), loss_weight=1.0, direction='dense', trunk='branch')))
