"""Everything that is the same in every training run."""

custom_imports = dict(imports=['mmcds'], allow_failed_imports=False)
default_scope = 'mmpretrain'

default_hooks = dict(
    runtime_info=dict(type='LossHistoryHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='accuracy/top1'),
    finite=dict(type='CheckFiniteHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False))
custom_hooks = [
    dict(type='EpochSeedHook'),
    dict(type='ViewColorHook'),
    dict(type='CheckDataHook'),
    dict(type='PrepareSupervisionsHook'),  # does nothing unless a method keeps something for every image
    dict(type='CheckBackboneHook'),  # where backbone.init_cfg names a file
    dict(type='CheckCheckpointHook'),
    dict(type='TeacherRecordHook'),  # does nothing without a teacher
    dict(type='SyncBuffersHook'),  # the same BatchNorm statistics on every rank before validation
    dict(type='ProgressBarHook'),
    dict(type='RunReportHook')]

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
