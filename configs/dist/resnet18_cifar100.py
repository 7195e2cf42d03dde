"""DIST, ResNet-50 to ResNet-18, CIFAR-100. Not in the paper: a method that came later.

Correlations of softened classes, within an image and within a class.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/dist/resnet18_cifar100.py
Weights of the authors' code, beside a whole cross-entropy; temperature 4 is that of KD here, our choice.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.dist.beta, gamma and temperature.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(dist=dict(type='DISTSupervision', temperature=4.0, beta=1.0, gamma=1.0)))
