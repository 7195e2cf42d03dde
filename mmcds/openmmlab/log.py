"""The log of a training, for people: a line of at most 120 columns for a step, and nothing that nobody can act on.

The log file has configuration, environment and hooks as well; ``scalars.json`` and TensorBoard have every term.
"""

import datetime
import logging

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


@LOG_PROCESSORS.register_module()
class ShortLogProcessor(LogProcessor):
    """MMEngine's ``LogProcessor``, whose line for a training step has the sums of a method's terms, not every term.

    ``Epoch 1/60 [50/312]  eta 0:12:03  0.35 s/step  lr 0.1  loss 4.2437 = ce 2.3091 + cds 1.9346``

    The terms of a supervision are added; ``waits for data`` is said where that takes a tenth of the time or more; what
    does not fit into 120 columns is left out. All scalars are recorded as MMEngine records them.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Return all scalars, and the line."""
        tag, line = super().get_log_after_iter(runner, batch_idx, mode)
        return tag, self._line(runner, batch_idx, tag) if mode == 'train' else line

    def _line(self, runner: Runner, batch_idx: int, tag: dict) -> str:
        if self.by_epoch:
            steps = len(runner.train_dataloader)
            done = str(self._get_iter(runner, batch_idx)).rjust(len(str(steps)))
            parts = [f'Epoch {self._get_epoch(runner, "train")}/{runner.max_epochs} [{done}/{steps}]']
        else:
            done = str(self._get_iter(runner, batch_idx)).rjust(len(str(runner.max_iters)))
            parts = [f'Step [{done}/{runner.max_iters}]']
        if 'eta' in runner.message_hub.runtime_info:
            parts.append(f'eta {datetime.timedelta(seconds=int(runner.message_hub.get_info("eta")))}')
        if 'time' in tag:
            parts.append(f'{tag["time"]:.3g} s/step')
        if 'lr' in tag:
            parts.append(f'lr {tag["lr"]:.3g}')
        if 'loss' in tag:
            parts.append(f'loss {tag["loss"]:.4f}{self._terms(tag)}')
        extra = []
        if tag.get('time') and tag.get('data_time', 0) >= 0.1 * tag['time']:
            extra.append(f'waits for data {100 * tag["data_time"] / tag["time"]:.0f} %')
        if 'grad_norm' in tag:
            extra.append(f'gradient {tag["grad_norm"]:.3g}')
        if 'memory' in tag:
            extra.append(f'{tag["memory"] / 1024:.1f} GiB')
        line = '  '.join(parts)
        for part in extra:
            if len(line) + 2 + len(part) <= ROOM:
                line += f'  {part}'
        return line if len(line) <= ROOM else f'{line[: ROOM - 3]}...'

    @staticmethod
    def _terms(tag: dict) -> str:
        """Return the terms of the total, those of one supervision added up; nothing if there is one term."""
        sums: dict[str, float] = {}
        for name, value in tag.items():
            last = name.rpartition('.')[2]
            if 'loss' in last and name != 'loss':
                group = name.partition('.')[0].removeprefix('loss_')
                sums[group] = sums.get(group, 0.0) + value
        return ' = ' + ' + '.join(f'{name} {value:.4f}' for name, value in sums.items()) if len(sums) > 1 else ''
