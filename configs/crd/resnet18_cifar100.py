"""CRD, ResNet-50 to ResNet-18, CIFAR-100 (Table 8 of the paper).

Features of an image agree with the teacher's, against a memory of all images.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/crd/resnet18_cifar100.py
The paper of CDS states no setting of it, and no teacher; weight, temperature and number of negatives from the
authors' code.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.crd.loss_weight, num_negatives and temperature.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(crd=dict(type='CRDSupervision', loss_weight=0.8, num_negatives=16384, temperature=0.07)))
