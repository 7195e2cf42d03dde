"""SSKD, ResNet-50 to ResNet-18, CIFAR-10 (not in the paper).

Logits and similarities of rotated images follow the teacher's.
First the teacher: python tools/train.py configs/sskd/resnet18_cifar10-teacher.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet18_cifar10.py
The paper of CDS states no setting of it, and no teacher; weights 0.1, 0.9, 2.7 and 10 from the authors' repository.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.sskd.rotated_weight and similarity_weight.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar10_rotated.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.1)),
    teacher=dict(
        config='mmcds::sskd/resnet18_cifar10-teacher.py',
        checkpoint='work_dirs/sskd/resnet18_cifar10-teacher/epoch_60.pth'),
    supervisions=dict(sskd=dict(type='SSKDSupervision')))
