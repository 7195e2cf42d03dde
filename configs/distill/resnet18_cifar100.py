"""Distillation with CDS, ResNet-50 to ResNet-18, CIFAR-100 (Eq. 8 and 9, Table 8 of the paper).

First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/distill/resnet18_cifar100.py
The paper does not name the teacher; ResNet-50 is the default of the released code. From that code, too: lambda1,
lambda2 0.1, lambda3 1, temperature 3 without its square, view 0 alone for logits, milestones, weight decay, views.
"""

# Often changed: model.teacher.config and checkpoint; model.teacher.mode='train' (what the released code does);
#   model.supervisions.embedding.mode='mse_row'; temperature and loss_weight (lambda2, lambda3) of both.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_two_view.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    teacher=dict(
        config='mmcds::cds/resnet50_cifar100.py',
        checkpoint='work_dirs/cds/resnet50_cifar100/epoch_300.pth'),
    supervisions=dict(
        cds=dict(
            type='ContrastiveSupervision',
            taps=(0, 1, 2, 3),
            neck=dict(type='CDSNeck', head='sepconv'),
            loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1)),
        embedding=dict(type='EmbeddingDistillation', mode='frobenius', loss_weight=0.1),
        logit=dict(type='LogitDistillation', temperature=3.0, loss_weight=1.0)))
