"""Reproducible random streams, checks before the run, and what is left after it."""

from mmcds.openmmlab.hooks.backbone import CheckBackboneHook
from mmcds.openmmlab.hooks.check import CheckCheckpointHook, CheckDataHook
from mmcds.openmmlab.hooks.checkpoint import SafeCheckpointHook
from mmcds.openmmlab.hooks.compile import CompileHook
from mmcds.openmmlab.hooks.compression import GradientCompressionHook
from mmcds.openmmlab.hooks.cuda_graph import CUDAGraphHook
from mmcds.openmmlab.hooks.finite import CheckFiniteHook
from mmcds.openmmlab.hooks.history import LossHistoryHook
from mmcds.openmmlab.hooks.prepare import PrepareSupervisionsHook
from mmcds.openmmlab.hooks.progress import ProgressBarHook
from mmcds.openmmlab.hooks.report import RunReportHook
from mmcds.openmmlab.hooks.seed import EpochSeedHook, seed_worker
from mmcds.openmmlab.hooks.stop import StopHook
from mmcds.openmmlab.hooks.teacher import TeacherRecordHook
from mmcds.openmmlab.hooks.views import ViewColorHook

__all__ = [
    'CUDAGraphHook',
    'CheckBackboneHook',
    'CheckCheckpointHook',
    'CheckDataHook',
    'CheckFiniteHook',
    'CompileHook',
    'EpochSeedHook',
    'GradientCompressionHook',
    'LossHistoryHook',
    'PrepareSupervisionsHook',
    'ProgressBarHook',
    'RunReportHook',
    'SafeCheckpointHook',
    'StopHook',
    'TeacherRecordHook',
    'ViewColorHook',
    'seed_worker',
]
