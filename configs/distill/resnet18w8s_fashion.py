"""Distillation with CDS, a small ResNet-18 to one of half the width, the embedded images (Eq. 8 and 9).

Not from the paper: a demonstration that runs in minutes on two cores, with the weights of the released CIFAR code.
Teacher, students and all other methods in one command, compared: python tools/paper.py run table8 --scale mini.
Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/distill/resnet18w8s_fashion.py
"""

# Often changed: model.teacher.config and checkpoint; model.teacher.mode='train' (what the released code does);
#   model.supervisions.embedding.mode='mse_row'; temperature and loss_weight (lambda2, lambda3) of both.
_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_two_view.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    backbone=dict(base_channels=8, stem_channels=8), head=dict(in_channels=64),
    teacher=dict(
        config='mmcds::distill/resnet18w16s_fashion-teacher.py',
        checkpoint='work_dirs/distill/resnet18w16s_fashion-teacher/epoch_15.pth'),
    supervisions=dict(
        cds=dict(
            type='ContrastiveSupervision',
            taps=(0, 1, 2, 3),
            neck=dict(type='CDSNeck', head='sepconv'),
            loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1)),
        embedding=dict(type='EmbeddingDistillation', mode='frobenius', loss_weight=0.1),
        logit=dict(type='LogitDistillation', temperature=3.0, loss_weight=1.0)))
