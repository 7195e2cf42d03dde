"""SP, ResNet-50 to ResNet-50, ImageNet-1k (Table 7 of the paper).

Images that are alike for the teacher are alike for the student.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/sp/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weight 1 from torchdistill; none else is known for
ImageNet.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.sp.taps and loss_weight.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(sp=dict(type='SPSupervision', taps=(3,), loss_weight=1.0)))
