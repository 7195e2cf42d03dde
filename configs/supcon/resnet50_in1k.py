"""SupCon, ResNet-50, ImageNet-1k, the encoder: 350 epochs at 512 images (Table 9 of the paper: 74.5 after stage 2).

The contrastive loss on the projected last feature alone, over the images of all GPUs; the classifier is not trained.
Then stage 2: python tools/train.py configs/supcon/resnet50_in1k-linear.py
Ours: not run yet. Command: tools/dist_train.sh configs/supcon/resnet50_in1k.py 8 --amp
At 6,144 images: --cfg-options train_dataloader.batch_size=768 optim_wrapper.optimizer.lr=7.2, and 8 large GPUs, or
fewer images on more GPUs: the gather makes one batch of them.
Temperature 0.1, width 128 and LARS from SupCon's paper as far as remembered; learning rate and schedule are those of
MMPretrain's SimCLR (4.8 at 4,096 images), because the paper states none of SupCon's.
"""

_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_supcon.py',
    '../_base_/schedules/contrastive_200e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}, loss=dict(loss_weight=0.0)),
    supervisions=dict(supcon=dict(
        type='ContrastiveSupervision',
        gather=True,
        taps=(3,),
        neck=dict(type='CDSNeck', head='mlp', hidden_channels=2048, out_channels=128),
        loss=dict(type='SupConLoss', temperature=0.1, loss_weight=1.0))))
train_dataloader = dict(batch_size=64)  # on each of 8 GPUs
optim_wrapper = dict(optimizer=dict(lr=0.6))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=340, by_epoch=True, begin=10, end=350)]
train_cfg = dict(max_epochs=350, val_interval=350)
default_hooks = dict(checkpoint=dict(save_best=None))
auto_scale_lr = dict(base_batch_size=512)
