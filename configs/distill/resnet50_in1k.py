"""Distillation with CDS, ResNet-50 to ResNet-50, ImageNet-1k (Eq. 8 and 9, Table 7 of the paper).

First the teacher: python tools/train.py configs/cds/resnet50_in1k.py
Ours: not run yet. Command: python tools/train.py configs/distill/resnet50_in1k.py
Not in the paper, from the released code: the teacher, lambda1 and lambda2 0.5, lambda3 1, temperature 1, view 0
alone for logits, milestones, weight decay, views. It adapts every width by a linear layer, so it cannot have a
ResNet-50 student; here equal widths are compared as they are.
"""

# Often changed: model.teacher.config and checkpoint; model.teacher.mode='train' (what the released code does);
#   model.supervisions.embedding.mode='mse_row'; temperature and loss_weight (lambda2, lambda3) of both.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_two_view.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_in1k.py',
        checkpoint='work_dirs/cds/resnet50_in1k/epoch_90.pth'),
    supervisions=dict(
        cds=dict(
            type='ContrastiveSupervision',
            taps=(0, 1, 2, 3),
            neck=dict(type='CDSNeck', head='sepconv'),
            loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.5)),
        embedding=dict(type='EmbeddingDistillation', mode='frobenius', loss_weight=0.5),
        logit=dict(type='LogitDistillation', temperature=1.0, loss_weight=1.0)))
