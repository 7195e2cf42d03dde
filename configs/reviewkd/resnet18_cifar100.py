"""ReviewKD, ResNet-50 to ResNet-18, CIFAR-100. Not in the paper: a method of the year before.

Every stage of the student, mixed with all deeper ones, predicts that of the teacher.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/reviewkd/resnet18_cifar100.py
The authors have no such pair: weight 5 is that of their wider networks for CIFAR-100.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.reviewkd.loss_weight and mid_channels.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(
        reviewkd=dict(type='ReviewKDSupervision', taps=(0, 1, 2, 3), loss_weight=5.0, mid_channels=512)))
