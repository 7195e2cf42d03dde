"""A progress bar under the log, for people who watch."""

import atexit
import logging
import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show a bar over all training iterations with the remaining time and the total loss.

    Only on a terminal; elsewhere the log lines carry the same figures (``eta``, ``loss``).
    """

    priority = 'LOW'

    def before_train(self, runner: Runner) -> None:
        """Start the bar, and let log lines scroll above it."""
        self._bar: Progress | None = None
        if not (is_main_process() and sys.stdout.isatty()):
            return
        self._bar = Progress(
            TextColumn('epoch {task.fields[epoch]}'),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[loss]}'),
            TimeElapsedColumn(),
            TextColumn('eta'),
            TimeRemainingColumn(),
        )
        stdout = sys.stdout
        self._bar.start()
        atexit.register(self._bar.stop)  # a crash must not leave the terminal without a cursor
        self._handlers = [
            handler
            for handler in runner.logger.handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is stdout
        ]
        for handler in self._handlers:
            handler.setStream(sys.stdout)
        self._task = self._bar.add_task(
            'train',
            total=runner.max_iters,
            completed=runner.iter,
            epoch=f'{runner.epoch + 1}/{runner.max_epochs}',
            loss='',
        )

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Advance; show the loss of the first iteration and of every tenth."""
        if self._bar is None or outputs is None:
            return
        self._bar.update(self._task, completed=runner.iter + 1, epoch=f'{runner.epoch + 1}/{runner.max_epochs}')
        if batch_idx == 0 or self.every_n_train_iters(runner, 10):
            self._bar.update(self._task, loss=f'loss {float(outputs["loss"]):.3f}')

    def after_train(self, runner: Runner) -> None:
        """Remove the bar and give the log its stream back."""
        if self._bar is not None:
            self._bar.stop()
            for handler in self._handlers:
                handler.setStream(sys.stdout)
            self._bar = None
