"""CC, ResNet-50 to ResNet-50, ImageNet-1k (in Table 7 for ResNet-18 alone).

Correlations between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/cc/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; no weight is known for ImageNet; this one is that of CIFAR.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.cc.mode and loss_weight.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(cc=dict(type='CCSupervision', mode='kernel', loss_weight=0.02)))
