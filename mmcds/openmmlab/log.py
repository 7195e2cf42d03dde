"""The log of a training, for people: a line of at most 120 columns for a step, and nothing that nobody can act on.

The log file has configuration, environment and hooks as well; ``scalars.json`` and TensorBoard have every term.
"""

import datetime
import logging
from collections.abc import Sequence

from mmengine.logging import MMLogger
from mmengine.runner import LogProcessor, Runner
from mmpretrain.registry import LOG_PROCESSORS

WIDTH = 120
#: Columns that the time at the beginning of a line leaves.
ROOM = WIDTH - len('11/27 20:43:48  ')
#: Beginnings of messages that are in the log file only.
FILE_ONLY = (
    '\n' + 60 * '-' + '\nSystem environment:',
    'Config:\n',
    'Hooks will be executed',
    'Exp name: ',
    'Distributed training is not used, all SyncBatchNorm',
    'paramwise_options -- ',
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


class _Terminal(logging.Formatter):
    """Begins a line with the time, and with the level if it is not that of news."""

    def format(self, record: logging.LogRecord) -> str:
        level = '' if record.levelno == logging.INFO else f'{record.levelname}: '
        return f'{self.formatTime(record, "%m/%d %H:%M:%S")}  {level}{super().format(record)}'


def shorten(logger: MMLogger) -> None:
    """Let a terminal see what a person wants to read; files keep everything.

    Args:
        logger: The logger of a run.
    """
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setFormatter(_Terminal())
            handler.addFilter(lambda record: not record.getMessage().startswith(FILE_ONLY))
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            logger.info(f'Config, environment and hooks are in {handler.baseFilename}.')


def _fit(parts: Sequence[str], glue: str = '  ', room: int = ROOM) -> str:
    """Join parts to a text of at most ``room`` columns, where dots stand for the last ones that are too many."""
    line, kept = glue.join(parts), len(parts)
    while len(line) > room and kept > 1:
        kept -= 1
        line = glue.join([*parts[:kept], '...'])
    return line


@LOG_PROCESSORS.register_module()
class ShortLogProcessor(LogProcessor):
    """MMEngine's ``LogProcessor``, whose line for a training step has the sums of a method's terms, not every term.

    ``Epoch 1/60 [50/312]  eta 0:12:03  0.35 s/step  lr 0.1  loss 4.2437 = ce 2.3091 + cds 1.9346``
    ``Epoch 1/60  validation  accuracy/top1 81.2500  accuracy/top5 98.4375``

    The terms of a supervision are added; ``waits for data`` is said where that takes a tenth of the time or more; dots
    stand for terms that do not fit into 120 columns. All scalars are recorded as MMEngine records them.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Return all scalars, and the line."""
        tag, _ = super().get_log_after_iter(runner, batch_idx, mode)
        if mode == 'train':
            return tag, self._line(runner, batch_idx, tag)
        steps = self._get_dataloader_size(runner, mode)
        return tag, f'{self._begin(runner, mode)} [{str(batch_idx + 1).rjust(len(str(steps)))}/{steps}]'

    def get_log_after_epoch(
        self, runner: Runner, batch_idx: int, mode: str, with_non_scalar: bool = False
    ) -> tuple[dict, str]:
        """Return all scalars, and the line of a validation or test: what was measured, in the order of the metrics."""
        tag, _ = super().get_log_after_epoch(runner, batch_idx, mode, with_non_scalar)
        parts = [self._begin(runner, mode)]
        for name, value in tag.items():
            short = name.removeprefix(f'{mode}/')
            if isinstance(value, (int, float)) and short not in ('time', 'data_time'):
                parts.append(f'{short} {value:.4f}')
        return tag, _fit(parts)

    def _begin(self, runner: Runner, mode: str) -> str:
        """Return where a validation or test stands in the training."""
        if mode == 'test':
            return 'Test'
        if self.by_epoch:
            return f'Epoch {self._get_epoch(runner, mode)}/{runner.max_epochs}  validation'
        return f'Step {runner.iter}/{runner.max_iters}  validation'

    def _line(self, runner: Runner, batch_idx: int, tag: dict) -> str:
        """Return the line of a training step."""
        if self.by_epoch:
            steps = len(runner.train_dataloader)
            done = str(self._get_iter(runner, batch_idx)).rjust(len(str(steps)))
            line = f'Epoch {self._get_epoch(runner, "train")}/{runner.max_epochs} [{done}/{steps}]'
        else:
            done = str(self._get_iter(runner, batch_idx)).rjust(len(str(runner.max_iters)))
            line = f'Step [{done}/{runner.max_iters}]'
        if 'eta' in runner.message_hub.runtime_info:
            line += f'  eta {datetime.timedelta(seconds=int(runner.message_hub.get_info("eta")))}'
        if 'time' in tag:
            line += f'  {tag["time"]:.3g} s/step'
        if 'lr' in tag:
            line += f'  lr {tag["lr"]:.3g}'
        if 'loss' in tag:
            first, *others = self._terms(tag) or ('',)
            total = f'  loss {tag["loss"]:.4f}' + (f' = {first}' if first else '')
            line = _fit([line + total, *others], ' + ')
        extra = []
        if tag.get('time') and tag.get('data_time', 0) >= 0.1 * tag['time']:
            extra.append(f'waits for data {100 * tag["data_time"] / tag["time"]:.0f} %')
        if 'grad_norm' in tag:
            extra.append(f'gradient {tag["grad_norm"]:.3g}')
        if 'memory' in tag:
            extra.append(f'{tag["memory"] / 1024:.1f} GiB')
        for part in extra:
            if len(line) + 2 + len(part) <= ROOM:
                line += f'  {part}'
        return line

    @staticmethod
    def _terms(tag: dict) -> list[str]:
        """Return the terms of the total, those of one supervision added up; nothing if there is one term."""
        sums: dict[str, float] = {}
        for name, value in tag.items():
            last = name.rpartition('.')[2]
            if 'loss' in last and name != 'loss':
                group = name.partition('.')[0].removeprefix('loss_')
                sums[group] = sums.get(group, 0.0) + value
        return [f'{name} {value:.4f}' for name, value in sums.items()] if len(sums) > 1 else []
