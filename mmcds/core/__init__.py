"""The method, in file order: outputs of a step, taps, supervisions, the training step, its teacher. PyTorch only."""

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.core.named_losses import Losses, is_loss
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.plain import ContrastiveDeepSupervision
from mmcds.core.registry import MODELS, Registry
from mmcds.core.step import Supervisions, TrainingStep
from mmcds.core.supervision import Supervision, TeacherSupervision, ViewSupervision
from mmcds.core.taps import NetworkInfo, TapInfo
from mmcds.core.teacher import Teacher

__all__ = [
    'MODELS',
    'ConfigError',
    'ContrastiveDeepSupervision',
    'DivergedError',
    'Losses',
    'NetworkInfo',
    'Registry',
    'StepOutputs',
    'Supervision',
    'Supervisions',
    'Tap',
    'TapInfo',
    'Teacher',
    'TeacherSupervision',
    'TrainingStep',
    'ViewSupervision',
    'is_loss',
    'tap_name',
]
