"""FitNet, ResNet-50 to ResNet-18, CIFAR-100 (Table 8 of the paper).

The second stage predicts the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/fitnet/resnet18_cifar100.py
The paper of CDS states no setting of it, and no teacher; one stage of training, hinted stage and weight 100 from the
benchmarks of the distillation literature.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.fitnet.taps, loss_weight and reduction.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(fitnet=dict(type='FitNetSupervision', taps=(1,), loss_weight=100.0)))
