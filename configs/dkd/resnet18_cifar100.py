"""DKD, ResNet-50 to ResNet-18, CIFAR-100. Not in the paper: a method that came later.

How sure the teacher is of the right class, and how it ranks the others, apart.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/dkd/resnet18_cifar100.py
Weights 1 and 8, temperature 4 and warm-up are those of the authors' code for CIFAR-100, beside a whole cross-entropy.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.dkd.alpha and beta.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(dkd=dict(type='DKDSupervision', temperature=4.0, alpha=1.0, beta=8.0)))
