"""An orderly end at a signal: at the next step of a training, at once elsewhere."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import DataLoader

from mmcds.openmmlab.hooks.checkpoint import SafeCheckpointHook

#: What ends a process: Ctrl-C, a scheduler, a closed terminal, Slurm's warning before its time is over.
NAMES = ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1')


class Stopped(BaseException):
    """The process was told to end by a signal, whose number is the argument."""


class _Signals:
    """The signal that came, and whether it waits for the next step."""

    number: int | None = None
    wait = False


def _receive(number: int, _: object) -> None:
    """Remember a signal; end at once where no step follows, or if it is the second one."""
    again = _Signals.number is not None
    _Signals.number = number
    if hasattr(signal, 'SIGCHLD'):  # PyTorch raises an error wherever it is when a loading process has ended
        signal.signal(signal.SIGCHLD, _pass_over)
    if again or not _Signals.wait:
        raise Stopped(number)
    os.write(
        2, b'mmcds: ends before the next step; a second signal ends it at once.\n'
    )  # print may not be called here


def _pass_over(_: int, __: object) -> None:
    """Do nothing: a loading process that the signal has ended is missed when its batch is."""


def _in_child() -> None:
    """Leave signals that reach a whole group of processes to the parent, which ends its loading processes itself."""
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _receive:
            signal.signal(number, signal.SIG_DFL if name == 'SIGTERM' else signal.SIG_IGN)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_in_child)


def keep_workers(loader: DataLoader) -> None:
    """Let loading processes live until this process ends them: torchrun and schedulers send SIGTERM to all of a group.

    Args:
        loader: Before its first iteration. It stays as it is where this process does not receive signals itself.
    """
    can = hasattr(signal, 'sigwaitinfo') and signal.getsignal(signal.SIGTERM) is _receive
    if loader.num_workers and can:
        loader.worker_init_fn = partial(_obey_parent, loader.worker_init_fn)


def _obey_parent(initialise: Callable | None, worker: int) -> None:
    """Initialise a loading process, and let a thread look who sends SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    Thread(target=_end_with_parent, daemon=True).start()
    if initialise is not None:
        initialise(worker)


def _end_with_parent() -> None:
    """Wait for the SIGTERM of the training, which a server of forks may stand between."""
    parent = multiprocessing.parent_process().pid  # type: ignore[union-attr]
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def receive_signals() -> None:
    """Let this process end in order at the signals of :data:`NAMES`."""
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _receive)


def received() -> int | None:
    """Return the number of the signal that has come."""
    return _Signals.number


@HOOKS.register_module()
class StopHook(Hook):
    """End a training before one of its steps, with a checkpoint, once a signal has come; save one when it is time.

    All ranks must do so before the same step, so each says before every step what it has seen, and learns before the
    next one what any of them had: the exchange goes on beside the step. Where gradients are accumulated, it is done
    before the next step that begins a sum.

    Raises:
        Stopped: With the number of the signal.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let signals wait from now on."""
        _Signals.wait = True
        self._checkpoint = next((hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)), None)
        several = get_world_size() > 1
        self._group: Any = dist.new_group(backend='gloo') if several else None  # NCCL would wait for the GPU
        self._sent: tuple[Tensor, Any] | None = None
        self._seen = (0, 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look whether a signal has come to any rank, or a checkpoint is due."""
        signal_, due = self._exchange()
        if (not signal_ and not due) or runner.iter % getattr(runner.optim_wrapper, '_accumulative_counts', 1):
            return
        if self._checkpoint is not None:
            self._checkpoint.save_within_epoch(runner)
            if self._group is not None:
                dist.barrier(self._group)  # the end of another rank would end the one that writes
        self._seen = (0, 0)
        if signal_:
            _Signals.number, _Signals.wait = signal_, False
            raise Stopped(signal_)

    def _exchange(self) -> tuple[int, int]:
        """Return the number of a signal that has come, and whether a checkpoint is due: what any rank has seen."""
        due = self._checkpoint is not None and self._checkpoint.due
        if self._group is None:
            return _Signals.number or 0, int(due)
        if self._sent is not None:
            said, work = self._sent
            work.wait()
            self._seen = tuple(map(max, self._seen, said.tolist()))
        said = torch.tensor([_Signals.number or 0, int(due)])
        self._sent = said, dist.all_reduce(said, dist.ReduceOp.MAX, self._group, async_op=True)
        return self._seen

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look whether a signal has come; the checkpoint of the epoch is there already."""
        if _Signals.number is not None:
            _Signals.wait = False
            raise Stopped(_Signals.number)

    def after_train(self, runner: Runner) -> None:
        """Let signals end the process at once again."""
        _Signals.wait = False
