"""CDS with AutoAugment, ResNet-50, ImageNet-1k, 90 epochs (not in the paper; for 350 it is Ours3 of Table 9).

Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_in1k-autoaug.py
For 350 epochs: --cfg-options train_cfg.max_epochs=350 param_scheduler.0.milestones=[117,233]; steps scaled, ours.
The paper does not say which view gets AutoAugment; here both do. The rest as in configs/cds/resnet50_in1k.py.
"""

_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k_autoaug_two_view.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))
