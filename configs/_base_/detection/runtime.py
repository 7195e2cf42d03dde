"""What every run of a detector has besides MMDetection's own defaults (a base beside an mmdet:: one)."""

custom_imports = dict(imports=['mmcds.detection'], allow_failed_imports=False)
custom_hooks = [
    dict(type='mmpretrain.EpochSeedHook'),
    dict(type='mmpretrain.CheckDetectionDataHook'),
    dict(type='mmpretrain.CheckBackboneHook'),
    dict(type='mmpretrain.CheckCheckpointHook'),
    dict(type='SyncBuffersHook'),
    dict(type='mmpretrain.CheckFiniteHook'),
    dict(type='mmpretrain.ProgressBarHook'),
    dict(type='mmpretrain.RunReportHook', metric='coco/bbox_mAP', export=False)]
randomness = dict(seed=0, deterministic=False)
