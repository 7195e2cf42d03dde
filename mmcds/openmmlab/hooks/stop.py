"""An orderly end at a signal: at the next step of a training, at once elsewhere."""

import os
import signal

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

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
    if again or not _Signals.wait:
        raise Stopped(number)
    os.write(
        2, b'mmcds: ends before the next step; a second signal ends it at once.\n'
    )  # print may not be called here


def _in_child() -> None:
    """Leave signals that reach a whole group of processes to the parent, which ends its loading processes itself."""
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is _receive:
            signal.signal(number, signal.SIG_DFL if name == 'SIGTERM' else signal.SIG_IGN)


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_in_child)


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
    """End a training before its next step, and not within one, once a signal has come.

    Raises:
        Stopped: With the number of the signal.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Let signals wait from now on."""
        _Signals.wait = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look whether one has come."""
        if _Signals.number is not None:
            _Signals.wait = False
            raise Stopped(_Signals.number)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Look whether one has come."""
        self.before_train_iter(runner, batch_idx)

    def after_train(self, runner: Runner) -> None:
        """Let signals end the process at once again."""
        _Signals.wait = False
