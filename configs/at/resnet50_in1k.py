"""AT, ResNet-50 to ResNet-50, ImageNet-1k (Table 7 of the paper).

Attention maps of all stages follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/at/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weight 1000 and the squared form from the authors' code.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.at.taps, loss_weight and mode.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(at=dict(type='ATSupervision', taps=(0, 1, 2, 3), loss_weight=1000.0)))
