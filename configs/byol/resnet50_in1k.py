"""BYOL, ResNet-50, ImageNet-1k, 1,000 epochs: MMPretrain's recipe, longer (Table 9 of the paper: 77.7 after finetuning).

Then: python tools/train.py configs/byol/resnet50_in1k-finetune.py, or -finetune-dsn.py
Ours: not run yet. Command: tools/dist_train.sh configs/byol/resnet50_in1k.py 16 --amp
Model, views and optimiser are MMPretrain's for 200 epochs at 4,096 images; the number of epochs is that of the paper's
caption. The momentum of the target starts at 0.99 and ends at 1, as there.
"""

_base_ = 'mmpretrain::byol/byol_resnet50_16xb256-coslr-200e_in1k.py'
custom_imports = dict(imports=['mmcds'], allow_failed_imports=False)
train_dataloader = dict(
    collate_fn=dict(_delete_=True, type='default_collate'),  # MMEngine would hand the scope of its base to it
    dataset=dict(data_root='{{$MMCDS_DATA_ROOT:data}}/imagenet'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=990, by_epoch=True, begin=10, end=1000)]
train_cfg = dict(max_epochs=1000)
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=10, max_keep_ckpts=2), finite=dict(type='CheckFiniteHook'),
    epoch_seed=dict(type='EpochSeedHook'), progress=dict(type='ProgressBarHook'))
randomness = dict(seed=0)
