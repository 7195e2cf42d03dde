"""KD, ResNet-50 to ResNet-50, ImageNet-1k (Table 7 of the paper).

The softened classes follow the teacher's.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/kd/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weights 0.5 and 0.5 and temperature 1 from mdistiller.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.kd.temperature and loss_weight.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.5)),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(kd=dict(type='KDSupervision', temperature=1.0, loss_weight=0.5)))
