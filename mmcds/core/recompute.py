"""Activation checkpointing: stages keep their input alone and are run again in the backward pass."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmcds.core.errors import ConfigError
from mmcds.core.measure import calls_without_data


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


def stages_of(backbone: nn.Module) -> tuple[str, ...]:
    """Return the names of the parts that are run again: the outermost sequences of blocks, or of such a sequence that
    the backbone does not run as a whole, the blocks.

    Raises:
        ConfigError: If the backbone has none.
    """
    sequences = {name: child for name, child in backbone.named_children() if isinstance(child, nn.Sequential)}
    stages: list[str] = []
    if sequences:
        ran = {call.name for call in calls_without_data(backbone)}
        for name, child in sequences.items():
            blocks = [f'{name}.{block}' for block, _ in child.named_children()]
            stages += [each for each in ([name] if name in ran else blocks) if each in ran]
    if not stages:
        raise ConfigError(
            f'CDSClassifier: recompute_stages=True, but {type(backbone).__name__} has no stage that is a '
            'nn.Sequential. Set it to False; many backbones have with_cp=True for the same purpose.'
        )
    return tuple(stages)


@contextmanager
def recompute(backbone: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let parts of a backbone drop what their backward pass needs, within this context.

    Losses and gradients stay what they were: the RNG state is restored, and BatchNorm statistics update once.
    """

    def contexts(stage: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), frozen_statistics(stage)

    stages = [backbone.get_submodule(name) for name in names]
    for stage in stages:
        forward = type(stage).forward.__get__(stage)
        stage.forward = partial(checkpoint, forward, use_reentrant=False, context_fn=partial(contexts, stage))
    try:
        yield
    finally:
        for stage in stages:
            del stage.forward
