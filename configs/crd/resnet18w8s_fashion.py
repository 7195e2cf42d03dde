"""CRD, a small ResNet-18 to one of half the width, the embedded images.

Features of an image agree with the teacher's, against a memory of all images.
First the teacher: python tools/train.py configs/distill/resnet18w16s_fashion-teacher.py
Not from the paper: the student of configs/distill/resnet18w8s_fashion.py, minutes on two cores.
Ours: not run yet. Command: python tools/train.py configs/crd/resnet18w8s_fashion.py
"""

_base_ = '../distill/resnet18w8s_fashion-plain.py'
model = dict(
    teacher=dict(
        config='mmcds::distill/resnet18w16s_fashion-teacher.py',
        checkpoint='work_dirs/distill/resnet18w16s_fashion-teacher/epoch_15.pth'),
    supervisions=dict(crd=dict(type='CRDSupervision', loss_weight=0.8, num_negatives=512, temperature=0.07)))
