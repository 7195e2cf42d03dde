"""SimCLR, ResNet-50, ImageNet-1k, the encoder: 200 epochs at 4,096 images, no labels.

Not in the paper's tables. Network, views and schedule are those of MMPretrain's SimCLR, the step is ours: MMPretrain's gather
hands a process only the gradient of its own terms, so that with two GPUs the gradient is half of what it should be, and
it holds the matrix of all pairs.
Then stage 2: python tools/train.py configs/simclr/resnet50_in1k-linear.py
Ours: not run yet. Command: tools/dist_train.sh configs/simclr/resnet50_in1k.py 16 --amp
"""

_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_simclr.py',
    '../_base_/schedules/contrastive_200e.py', '../_base_/runtime.py']
model = dict(
    backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True), zero_init_residual=True),
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.0)),
    supervisions=dict(simclr=dict(
        type='ContrastiveSupervision',
        gather=True,
        taps=(3,),
        neck=dict(type='CDSNeck', head='mlp', hidden_channels=2048, out_channels=128),
        loss=dict(type='NTXentLoss', temperature=0.1, loss_weight=1.0))))
train_dataloader = dict(batch_size=256)  # on each of 16 GPUs
default_hooks = dict(checkpoint=dict(save_best=None))
