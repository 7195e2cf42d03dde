"""CC, a small ResNet-18 to one of half the width, the embedded images.

Correlations between the images of a batch follow the teacher's.
First the teacher: python tools/train.py configs/distill/resnet18w16s_fashion-teacher.py
Not from the paper: the student of configs/distill/resnet18w8s_fashion.py, minutes on two cores.
Ours: not run yet. Command: python tools/train.py configs/cc/resnet18w8s_fashion.py
"""

_base_ = '../distill/resnet18w8s_fashion-plain.py'
model = dict(
    teacher=dict(
        config='mmcds::distill/resnet18w16s_fashion-teacher.py',
        checkpoint='work_dirs/distill/resnet18w16s_fashion-teacher/epoch_15.pth'),
    supervisions=dict(cc=dict(type='CCSupervision', mode='kernel', loss_weight=0.02)))
