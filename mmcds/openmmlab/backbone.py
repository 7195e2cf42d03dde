"""Building a backbone of OpenMMLab whose stages can be tapped."""

import math
from collections.abc import Iterable

import torch
from mmpretrain.registry import MODELS
from torch import nn

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import Tap


def build_backbone(backbone: dict | nn.Module, taps: Iterable[Tap]) -> nn.Module:
    """Build a backbone whose ``out_indices`` contain every tapped stage as well as its own last one.

    Args:
        backbone: Config, or a backbone that is built already and is taken as it is.
        taps: Stage numbers and module names; only the numbers matter here.

    Raises:
        ConfigError: If a number is no stage of this backbone.
    """
    stages = {tap for tap in taps if isinstance(tap, int)}
    if isinstance(backbone, nn.Module) or not stages:
        return backbone if isinstance(backbone, nn.Module) else MODELS.build(backbone)
    with torch.random.fork_rng(devices=[]):  # a look at its defaults must not change the random stream
        built = MODELS.build(backbone)
    own = getattr(built, 'out_indices', None)
    if own is None:
        raise ConfigError(
            f'{type(built).__name__} has no numbered stages, but taps {sorted(stages)} were '
            'asked for. Name modules of the backbone instead.'
        )
    count = getattr(built, 'num_stages', math.inf)
    wrong = sorted(stage for stage in stages if not 0 <= stage < count)
    if wrong:
        raise ConfigError(
            f'{type(built).__name__} has no stage {wrong[0]}; its stages are 0 to {count - 1}. Change the taps.'
        )
    return MODELS.build({**backbone, 'out_indices': tuple(sorted(stages | set(own)))})
