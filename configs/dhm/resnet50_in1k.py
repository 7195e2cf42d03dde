"""DHM, ResNet-50, ImageNet-1k (paper Table 3: 76.57, top-1).

Branches on two stages that mimic each other. The released loss is that of DKS; see mmcds/baselines/dhm.py.
Ours: not run yet. Command: python tools/train.py configs/dhm/resnet50_in1k.py
Not in the paper: weight, temperature (1) and branches from the released code of DHM.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.dhm.loss_weight, stochastic and trunk.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(dhm=dict(type='DHMSupervision', taps=(1, 2), loss_weight=1.0, trunk='branch')))
