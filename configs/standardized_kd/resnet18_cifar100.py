"""KD on standardised logits, ResNet-50 to ResNet-18, CIFAR-100. Not in the paper: a method that came later.

The softened classes of logits of mean 0 and deviation 1 follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/standardized_kd/resnet18_cifar100.py
Weights 0.1 and 9 and temperature 2 are those of the authors' code for CIFAR-100.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.standardized_kd.temperature and loss_weight.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.1)),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(standardized_kd=dict(type='StandardizedKDSupervision', temperature=2.0, loss_weight=9.0)))
