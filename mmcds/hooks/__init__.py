"""Reproducible random streams, checks before the run, and what is left after it."""

from mmcds.hooks.backbone import CheckBackboneHook
from mmcds.hooks.check import CheckCheckpointHook, CheckDataHook
from mmcds.hooks.compile import CompileHook
from mmcds.hooks.prepare import PrepareSupervisionsHook
from mmcds.hooks.progress import ProgressBarHook
from mmcds.hooks.report import RunReportHook
from mmcds.hooks.seed import EpochSeedHook, seed_worker
from mmcds.hooks.teacher import TeacherRecordHook
from mmcds.hooks.views import ViewColorHook

__all__ = [
    'CheckBackboneHook',
    'CheckCheckpointHook',
    'CheckDataHook',
    'CompileHook',
    'EpochSeedHook',
    'PrepareSupervisionsHook',
    'ProgressBarHook',
    'RunReportHook',
    'TeacherRecordHook',
    'ViewColorHook',
    'seed_worker',
]
