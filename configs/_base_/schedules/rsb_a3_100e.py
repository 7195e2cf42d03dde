"""ImageNet, 100 epochs of LAMB at 2,048 images: "ResNet strikes back", A3."""

_base_ = 'mmpretrain::_base_/schedules/imagenet_bs2048_rsb.py'

optim_wrapper = dict(optimizer=dict(lr=0.008), paramwise_cfg=dict(bias_decay_mult=0., norm_decay_mult=0.))
