"""Stop a training whose losses are not numbers any more."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from mmcds.core.errors import DivergedError
from mmcds.openmmlab.checkpoint import not_finite
from mmcds.openmmlab.hooks.check import bare_model

#: How many steps in a row a loss scale may skip.
SKIPPED = 50


@HOOKS.register_module()
class CheckFiniteHook(Hook):
    """Stop within ``interval`` steps after the loss of a step was NaN or infinite.

    Whether it was is added up on the device and read every ``interval`` steps, so a GPU is not waited for in between.
    With a loss scale that adapts itself (float16) such steps are skipped and no fault; there the weights count, and
    :data:`SKIPPED` such steps in a row: by then the scale would have become as small as it helps.

    Args:
        interval: Steps between two looks; on a CPU, where a look costs nothing, every step has one.

    Raises:
        DivergedError: Naming the terms, the step and the learning rate.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._bad: Tensor | None = None
        self._in_a_row: Tensor | None = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Add up, and look every ``interval`` steps and at the end of an epoch."""
        loss = (outputs or {}).get('loss')
        if not isinstance(loss, Tensor):
            return
        bad = ~torch.isfinite(loss.detach()).all()
        self._bad = bad if self._bad is None else self._bad | bad
        self._in_a_row = bad.long() if self._in_a_row is None else (self._in_a_row + 1) * bad
        if loss.is_cuda and not (
            self.every_n_train_iters(runner, self.interval) or self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            return
        found, self._bad = bool(self._bad), None
        if not found:
            return
        skips = isinstance(runner.optim_wrapper, AmpOptimWrapper) and int(self._in_a_row) < SKIPPED
        if skips and not not_finite(bare_model(runner).state_dict()):
            return
        terms = [
            f'{name} is {value.item():g}'
            for name, value in (outputs or {}).items()
            if isinstance(value, Tensor) and value.numel() == 1 and not torch.isfinite(value)
        ]
        rates = ', '.join(f'{rate:g}' for rate in sorted({*next(iter(runner.optim_wrapper.get_lr().values()))}))
        raise DivergedError(
            f'the training has diverged by iteration {runner.iter + 1} (epoch {runner.epoch + 1}, learning rate '
            f'{rates}): {", ".join(terms) or "its loss was not finite"}. Lower the learning rate, or lengthen its '
            'warm-up. Checkpoints that were written before are finite; go on from one with --resume.'
        )
