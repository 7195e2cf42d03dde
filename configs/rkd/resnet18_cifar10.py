"""RKD, ResNet-50 to ResNet-18, CIFAR-10 (Table 8 of the paper).

Distances and angles between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_cifar10.py
Ours: not run yet. Command: python tools/train.py configs/rkd/resnet18_cifar10.py
The paper of CDS states no setting of it, and no teacher; weights 25 and 50 from the benchmarks of the distillation
literature.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.rkd.distance_weight, angle_weight and normalise.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar10.py',
        checkpoint='work_dirs/cds/resnet50_cifar10/epoch_300.pth'),
    supervisions=dict(rkd=dict(type='RKDSupervision', distance_weight=25.0, angle_weight=50.0)))
