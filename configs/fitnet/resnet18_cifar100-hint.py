"""FitNet as in its own paper, stage 1: the hint alone trains the student, ResNet-50 to ResNet-18, CIFAR-100.

First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/fitnet/resnet18_cifar100-hint.py
Then stage 2, distillation of logits from there:
python tools/train.py configs/kd/resnet18_cifar100.py --cfg-options load_from=CHECKPOINT
The number of epochs is ours: the paper trains until the hint stops improving.
"""

_base_ = './resnet18_cifar100.py'
model = dict(
    head=dict(loss=dict(loss_weight=0.0)),
    supervisions=dict(fitnet=dict(reduction='half-sum', loss_weight=1.0)))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[30, 45], gamma=0.1)]
train_cfg = dict(max_epochs=60)
optim_wrapper = dict(optimizer=dict(lr=1e-3), clip_grad=dict(max_norm=10))
