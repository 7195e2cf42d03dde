"""AT, ResNet-50 to ResNet-18, CIFAR-100, as the distillation literature trains it.

Attention maps of all stages follow the teacher's.
First the teacher: python tools/train.py configs/plain/resnet50_cifar100-240e.py
Ours: not run yet. Command: python tools/train.py configs/at/resnet18_cifar100-240e.py
Not from the paper of CDS: 240 epochs, 64 images, plain crops and a plain teacher; weight 1000 and the squared form
from the authors' code.
"""

_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_literature.py',
    '../_base_/schedules/cifar_240e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::plain/resnet50_cifar100-240e.py',
        checkpoint='work_dirs/plain/resnet50_cifar100-240e/epoch_240.pth'),
    supervisions=dict(at=dict(type='ATSupervision', taps=(0, 1, 2, 3), loss_weight=1000.0)))
