"""Activation checkpointing: stages keep their input alone and are run again in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmcds.core.errors import ConfigError


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise with batch statistics as in training, without moving the running ones a second time."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def stages_of(backbone: nn.Module) -> list[nn.Module]:
    """Return the parts that are run again: the outermost sequences of blocks.

    Raises:
        ConfigError: If the backbone has none.
    """
    stages: list[nn.Module] = [child for child in backbone.children() if isinstance(child, nn.Sequential)]
    if not stages:
        raise ConfigError(
            f'CDSClassifier: recompute_stages=True, but {type(backbone).__name__} has no stage that is a '
            'nn.Sequential. Set it to False; many backbones have with_cp=True for the same purpose.'
        )
    return stages


@contextmanager
def recompute_stages(backbone: nn.Module) -> Iterator[None]:
    """Let every stage of a backbone drop what its backward pass needs, within this context.

    Losses and gradients stay what they were: the RNG state is restored, and BatchNorm statistics update once.
    """

    def contexts(stage: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(stage)

    stages = stages_of(backbone)
    for stage in stages:
        forward = type(stage).forward.__get__(stage)
        stage.forward = partial(checkpoint, forward, use_reentrant=False, context_fn=partial(contexts, stage))
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward
