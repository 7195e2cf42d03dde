"""What every run of a detector has besides MMDetection's own defaults (a base beside an mmdet:: one)."""

custom_imports = dict(imports=['mmcds.detection'], allow_failed_imports=False)
#: For default_hooks, which MMDetection's bases have already.
run_hooks = dict(
    epoch_seed=dict(type='mmpretrain.EpochSeedHook'),
    check_data=dict(type='mmpretrain.CheckDetectionDataHook'),
    check_backbone=dict(type='mmpretrain.CheckBackboneHook'),
    check_checkpoint=dict(type='mmpretrain.CheckCheckpointHook'),
    sync_buffers=dict(type='SyncBuffersHook'),
    finite=dict(type='mmpretrain.CheckFiniteHook'),
    progress=dict(type='mmpretrain.ProgressBarHook'),
    report=dict(type='mmpretrain.RunReportHook', metric='coco/bbox_mAP', export=False))
custom_hooks = []
randomness = dict(seed=0, deterministic=False)
