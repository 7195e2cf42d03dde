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
    visualization=dict(type='VisualizationHook', enable=False),
    # ours have names too, so that custom_hooks of a config add to them; NAME=None leaves one out
    epoch_seed=dict(type='EpochSeedHook'),
    view_color=dict(type='ViewColorHook'),
    check_data=dict(type='CheckDataHook'),
    prepare=dict(type='PrepareSupervisionsHook'),  # does nothing unless a method keeps something for every image
    check_backbone=dict(type='CheckBackboneHook'),  # where backbone.init_cfg names a file
    check_checkpoint=dict(type='CheckCheckpointHook'),
    teacher_record=dict(type='TeacherRecordHook'),  # does nothing without a teacher
    sync_buffers=dict(type='SyncBuffersHook'),  # the same BatchNorm statistics on every rank before validation
    progress=dict(type='ProgressBarHook'),
    report=dict(type='RunReportHook'))
custom_hooks = []

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0, deterministic=False)
