"""CC, ResNet-50 to ResNet-18, CIFAR-100 (not in the paper).

Correlations between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/cc/resnet18_cifar100.py
The paper of CDS states no setting of it, and no teacher; weight 0.02 from the benchmarks of the distillation
literature, where it belongs to mode='adjacent'.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.cc.mode and loss_weight.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(cc=dict(type='CCSupervision', mode='kernel', loss_weight=0.02)))
