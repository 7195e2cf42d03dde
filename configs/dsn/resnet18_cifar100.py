"""DSN, ResNet-18, CIFAR-100 (Table 1 of the paper).

Auxiliary classifiers on three stages; the trunk is that of the CDS head, so the loss is all that differs.
Ours: not run yet. Command: python tools/train.py configs/dsn/resnet18_cifar100.py
Not in the paper: loss_weight (the plain sum) and the form of the classifiers, both our choice.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.dsn.loss_weight, decay and trunk.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(dsn=dict(type='DSNSupervision', taps=(0, 1, 2), loss_weight=1.0, trunk='sepconv')))
