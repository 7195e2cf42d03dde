"""x"""
custom_imports = dict(imports=['mmcds.detection'], allow_failed_imports=False)
custom_hooks = [dict(type='mmpretrain.EpochSeedHook'), dict(type='mmpretrain.ProgressBarHook')]
randomness = dict(seed=0, deterministic=False)
