"""The losses of the log without waiting for the device, in a history that does not grow with the run."""

from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor


@HOOKS.register_module()
class LossHistoryHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, which reads the losses of many steps in one copy.

    MMEngine reads every term of every step by itself, and a GPU is waited for each time; and it copies the history of
    every term at every step, which is kept whole, in memory and in every checkpoint. Here the terms stay on the device
    until a log line, the end of an epoch or a checkpoint needs them, and then come over in one copy. The numbers are
    the same. Terms that are not optimised are computed for log lines only, whose latest value they show.

    Args:
        keep: Steps that are kept at least; two epochs are kept in any case. Statistics over all steps (``'global'`` in
            ``log_processor``) see no more than these.
    """

    def __init__(self, keep: int = 10_000) -> None:
        self.keep = keep
        self._waiting: list[tuple[str, Any]] = []

    def before_train(self, runner: Runner) -> None:
        """Find out how often a line is logged, and how long an epoch is."""
        super().before_train(runner)
        self._waiting = []
        self._interval = min([hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)], default=50)
        self._kept = max(self.keep, 2 * len(runner.train_dataloader))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Tell the model whether a log line follows this step."""
        super().before_train_iter(runner, batch_idx, data_batch)
        runner.message_hub.update_info('watched', self._is_logged(runner, batch_idx))

    def _is_logged(self, runner: Runner, batch_idx: int) -> bool:
        return (
            self.every_n_inner_iters(batch_idx, self._interval)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
            or self.is_last_train_iter(runner)
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Keep the terms of this step, and read all that are kept where a log line may follow."""
        for name, value in (outputs or {}).items():
            self._waiting.append((f'train/{name}', value.detach() if isinstance(value, Tensor) else value))
        if self._is_logged(runner, batch_idx):
            self.read(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Let a checkpoint have all terms."""
        if self._waiting:
            self.read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def read(self, runner: Runner) -> None:
        """Copy all terms that are kept, at once for every device, into the history, in their order."""
        values: dict[int, float] = {}
        by_device: dict[torch.device, list[int]] = {}
        for place, (_, value) in enumerate(self._waiting):
            if isinstance(value, Tensor):
                by_device.setdefault(value.device, []).append(place)
            else:
                values[place] = float(value)
        for places in by_device.values():
            stacked = torch.stack([self._waiting[place][1].reshape(()).double() for place in places])
            values.update(zip(places, stacked.tolist(), strict=True))
        for place, (name, _) in enumerate(self._waiting):
            runner.message_hub.update_scalar(name, values[place])
        self._waiting = []
        for history in runner.message_hub.log_scalars.values():
            history.max_length = self._kept
