"""CRD, ResNet-50 to ResNet-50, ImageNet-1k (Table 7 of the paper).

Features of an image agree with the teacher's, against a memory of all images.
First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/crd/resnet50_in1k.py
The paper of CDS states no setting of it, and no teacher; weight, temperature, number of negatives and drawing with
replacement from the authors' code.
"""

# Often changed: model.teacher.config and checkpoint; model.supervisions.crd.loss_weight, num_negatives and temperature.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(crd=dict(type='CRDSupervision', loss_weight=0.8, num_negatives=16384, temperature=0.07, replace=True)))
