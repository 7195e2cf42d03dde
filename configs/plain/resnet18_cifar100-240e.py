"""Plain training, ResNet-18, CIFAR-100, as the distillation literature trains students and teachers.

Not from the paper of CDS: 240 epochs, 64 images, plain crops. The twin of configs/kd/resnet18_cifar100-240e.py.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet18_cifar100-240e.py
"""

_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_literature.py',
    '../_base_/schedules/cifar_240e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))
