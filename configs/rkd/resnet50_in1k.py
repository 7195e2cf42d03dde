"""RKD, ResNet-50 to ResNet-50, ImageNet-1k (Table 7 of the paper).

Distances and angles between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/rkd/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weights 25 and 50 from MMRazor, which compares features of
unit length (normalise=True).
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.rkd.distance_weight, angle_weight and normalise.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(rkd=dict(type='RKDSupervision', distance_weight=25.0, angle_weight=50.0)))
