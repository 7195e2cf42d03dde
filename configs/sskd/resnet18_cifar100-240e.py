"""SSKD, ResNet-50 to ResNet-18, CIFAR-100, as the distillation literature trains it.

Logits and similarities of rotated images follow the teacher's.
First the teacher: python tools/train.py configs/sskd/resnet18_cifar100-240e-teacher.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18_cifar100-240e.py
Not from the paper of CDS: 240 epochs, 64 images, plain crops; weights 0.1, 0.9, 2.7 and 10 from the authors'
repository.
"""

_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_literature_rotated.py',
    '../_base_/schedules/cifar_240e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.1)),
    teacher=dict(
        config='mmcds::sskd/resnet18_cifar100-240e-teacher.py',
        checkpoint='work_dirs/sskd/resnet18_cifar100-240e-teacher/epoch_60.pth'),
    supervisions=dict(sskd=dict(type='SSKDSupervision')))
