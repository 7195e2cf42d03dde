"""Plain training with AutoAugment, ResNet-50, ImageNet-1k, 90 epochs (not in the paper; for 270 at batch 4,096 it is Baseline2 of Table 9).

Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_in1k-autoaug.py
For 270 epochs: --cfg-options train_cfg.max_epochs=270 param_scheduler.0.milestones=[90,180]; steps scaled, ours.
"""

_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_autoaug.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))
