"""ImageNet, 300 epochs of AdamW at 1,024 images: MMPretrain's schedule of Swin."""

_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'
