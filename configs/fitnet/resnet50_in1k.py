"""FitNet, ResNet-50 to ResNet-50, ImageNet-1k (not in the paper).

The second stage predicts the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/fitnet/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; no weight is known for ImageNet; this one is that of CIFAR.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.fitnet.taps, loss_weight and reduction.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(fitnet=dict(type='FitNetSupervision', taps=(1,), loss_weight=100.0)))
