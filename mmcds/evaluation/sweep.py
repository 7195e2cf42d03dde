"""Several trainings of one comparison: run what is missing, several at a time, and collect their metrics."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import torch

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import read_scalars, to_percent
from mmcds.openmmlab.work_dir import named_checkpoint, step_of, write_whole
from mmcds.resources import resources

RESULT = 'result.json'
#: What a run is compared by.
SCORES = ('accuracy/top1', 'coco/bbox_mAP')


@dataclass(frozen=True)
class Run:
    """One training of a comparison.

    Attributes:
        label: What is compared; runs of the same label are repetitions.
        config: Config file or ``mmcds::`` path.
        seed: Seed of the run.
        work_dir: Its folder.
        options: ``KEY=VALUE`` overrides of the config.
        validated: Whether it has a validation, whose metrics are its result; self-supervised training has none.
        processes: How many train it together, one per GPU.
    """

    label: str
    config: str
    seed: int
    work_dir: Path
    options: tuple[str, ...] = ()
    validated: bool = True
    processes: int = 1

    def command(self) -> list[str]:
        """Return the command line that trains it, or goes on with it."""
        options = ['--cfg-options', *self.options] if self.options else []
        tools = resources() / 'tools'
        start = [sys.executable, str(tools / 'train.py'), self.config]
        if self.processes > 1:
            start = ['bash', str(tools / 'dist_train.sh'), self.config, str(self.processes)]
        return [
            *start,
            '--work-dir',
            str(self.work_dir),
            '--seed',
            str(self.seed),
            '--resume',
            *options,
        ]


#: Trainings that run now, to be ended with this process.
_running: set[subprocess.Popen] = set()


def call(command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
    """Run a command whose output is appended to a file; return its status."""
    with log.open('a') as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    _running.add(process)
    try:
        return process.wait()
    finally:
        _running.discard(process)


def _train(run: Run, devices: SimpleQueue) -> dict:
    file = run.work_dir / RESULT
    config = Path(run.config)
    if config.parent == run.work_dir:  # so that a folder can be moved with what it holds
        config = Path(config.name)
    record: dict = dict(label=run.label, seed=run.seed, config=str(config), options=list(run.options))
    if file.is_file():
        found = json.loads(file.read_text())
        before = {key: found[key] for key in record}
        if before != record:
            raise ConfigError(
                f'{run.work_dir} holds another run ({before}) than the one asked for ({record}). '
                'Choose another --out folder.'
            )
        return found
    run.work_dir.mkdir(parents=True, exist_ok=True)
    log = run.work_dir / 'console.log'
    device = devices.get()
    environment = os.environ if device is None else {**os.environ, 'CUDA_VISIBLE_DEVICES': device}
    try:
        code = call(run.command(), log, dict(environment))
    finally:
        devices.put(device)
    if code:
        raise ConfigError(
            f'{run.label}, seed {run.seed}: training ended with status {code}. The last line of '
            f'{log}: {(log.read_text().splitlines() or [""])[-1]}'
        )
    training, validations = read_scalars(run.work_dir)
    if run.validated and not validations:
        raise ConfigError(
            f'{run.label}, seed {run.seed}: no validation gave a metric (a detector that finds nothing has none). '
            f'Train it longer; see {log}.'
        )
    measured = Path(named_checkpoint(run.work_dir))
    if run.validated and step_of(measured) not in (-1, validations[-1]['epoch']):
        raise ConfigError(
            f'{run.label}, seed {run.seed}: the last validation is that of step {validations[-1]["epoch"]}, but the '
            f'last checkpoint is {measured.name}. Validate the last epoch (train_cfg.val_interval), and delete '
            f'{run.work_dir}.'
        )
    record['checkpoint'] = measured.name or None
    record['metrics'] = {key: value for key, value in (validations or [{}])[-1].items() if '/' in key}
    record['metrics'].update(final_losses(training))
    scores = [to_percent(name) * scalars[name] for scalars in validations for name in SCORES if name in scalars]
    if scores:
        record.update(accuracy=scores[-1], best=max(scores))
    record['provenance'] = provenance(run.processes)
    write_whole(file, json.dumps(record, indent=2) + '\n')
    return record


def provenance(processes: int) -> dict[str, str]:
    """Return what a run is told apart by beside its config: versions, hardware and the day of its end.

    Args:
        processes: How many trained together.
    """
    found = {'Python': platform.python_version()}
    for name in ('mmcds', 'torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection'):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    unit = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU, {cores} cores'
    return dict(
        versions=', '.join(f'{name} {number}' for name, number in found.items()),
        device=f'{processes} x {unit}' if processes > 1 else unit,
        ended=date.today().isoformat(),
    )


def final_losses(training: Sequence[dict]) -> dict[str, float]:
    """Return the cross-entropy of the last fifteenth of a training, which is what Section 5.1 calls converged.

    Args:
        training: Scalars that were logged, in order; see :func:`mmcds.evaluation.curves.read_scalars`.

    Returns:
        ``train/loss_ce``, the mean over the last 20 of 300 epochs; nothing where no cross-entropy was logged.
    """
    values = [scalars['loss_ce'] for scalars in training if 'loss_ce' in scalars]
    last = values[-max(1, round(len(values) / 15)) :]
    return {'train/loss_ce': sum(last) / len(last)} if last else {}


def execute(
    runs: Iterable[Run],
    jobs: int = 1,
    devices: Sequence[str] = (),
    done: Callable[[Run, dict], None] = lambda run, record: None,
) -> list[dict]:
    """Train every run that has not ended yet; if one fails, the others are trained all the same.

    Args:
        runs: What to train.
        jobs: How many at a time.
        devices: GPUs to spread them over, those of one training as in ``CUDA_VISIBLE_DEVICES``; none leaves that to
            the trainings.
        done: Gets every run and its record as soon as it has ended, one at a time.

    Returns:
        One record per run: its attributes, ``metrics``, what the last validation gave, and ``accuracy``, the top-1
        accuracy of a classifier or the AP of a detector after the last epoch, in percent, ``best``, the highest, and
        ``provenance``, see :func:`provenance`.

    Raises:
        ConfigError: If a training fails, or if a folder holds another run.
    """
    free: SimpleQueue = SimpleQueue()
    for number in range(jobs):
        free.put(devices[number % len(devices)] if devices else None)
    one_at_a_time = Lock()

    def train(run: Run) -> dict:
        record = _train(run, free)
        with one_at_a_time:
            done(run, record)
        return record

    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(train, run) for run in runs]
        try:
            wait(started)
        except BaseException:  # a signal or Ctrl-C: the trainings end with this process, in their own orderly way
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(_running):
                process.terminate()
            raise
    return [future.result() for future in started]
