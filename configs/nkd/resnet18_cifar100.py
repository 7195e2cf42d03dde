"""NKD, ResNet-50 to ResNet-18, CIFAR-100. Not in the paper: a method that came later.

The weight that the teacher gives the right class, and its shares among the others.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/nkd/resnet18_cifar100.py
Temperature 1 and gamma 1.5 are the defaults of the authors' code, beside a whole cross-entropy.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.nkd.gamma and temperature.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(nkd=dict(type='NKDSupervision', temperature=1.0, gamma=1.5)))
