"""SSKD, ResNet-50 to ResNet-50, ImageNet-1k (in Table 7 for ResNet-18 alone).

Logits and similarities of rotated images follow the teacher's.
First the teacher: python tools/train.py configs/sskd/resnet50_in1k-teacher.py
Ours: not run yet. Command: python tools/train.py configs/sskd/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weights 1, 0.9, 2.7 and 10 from torchdistill.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.sskd.rotated_weight and similarity_weight.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_rotated.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=1.0)),
    teacher=dict(
        config='mmcds::sskd/resnet50_in1k-teacher.py',
        checkpoint='work_dirs/sskd/resnet50_in1k-teacher/epoch_30.pth'),
    supervisions=dict(sskd=dict(type='SSKDSupervision')))
