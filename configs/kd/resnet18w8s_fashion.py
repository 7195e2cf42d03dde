"""KD, a small ResNet-18 to one of half the width, the embedded images.

The softened classes follow the teacher's.
First the teacher: python tools/train.py configs/distill/resnet18w16s_fashion-teacher.py
Not from the paper: the student of configs/distill/resnet18w8s_fashion.py, minutes on two cores.
Ours: not run yet. Command: python tools/train.py configs/kd/resnet18w8s_fashion.py
"""

_base_ = '../distill/resnet18w8s_fashion-plain.py'
model = dict(
    head=dict(loss=dict(loss_weight=0.1)),
    teacher=dict(
        config='mmcds::distill/resnet18w16s_fashion-teacher.py',
        checkpoint='work_dirs/distill/resnet18w16s_fashion-teacher/epoch_15.pth'),
    supervisions=dict(kd=dict(type='KDSupervision', temperature=4.0, loss_weight=0.9)))
