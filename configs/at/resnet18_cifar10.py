"""AT, ResNet-50 to ResNet-18, CIFAR-10 (Table 8 of the paper).

Attention maps of all stages follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_cifar10.py
Ours: not run yet. Command: python tools/train.py configs/at/resnet18_cifar10.py
The paper of CDS states no setting of it, and no teacher; weight 1000 and the squared form from the authors' code.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.at.taps, loss_weight and mode.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar10.py',
        checkpoint='work_dirs/cds/resnet50_cifar10/epoch_300.pth'),
    supervisions=dict(at=dict(type='ATSupervision', taps=(0, 1, 2, 3), loss_weight=1000.0)))
