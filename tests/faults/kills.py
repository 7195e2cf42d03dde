#!/usr/bin/env python
"""Kill trainings at random moments, let them go on, and compare everything with trainings that were never stopped.

python tests/faults/kills.py --kills 20 --methods plain cds crd --workers 0 2 --ranks 1 2 --seed 0

Every training of four short epochs is killed (SIGKILL, the whole group of processes) six times, three times of five at
a random moment and otherwise while it writes a file or validates, and then left alone; half of them save before every
step. Weights, optimiser, schedules, averaged weights, best checkpoint, validation records and losses have to be equal
to the last bit. The status is 1 if anything differs.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.forked import run, start
from run_state import same, state_of

from mmcds.openmmlab.work_dir import PARTIAL, POINTER, VALIDATED, is_intact, named_checkpoint
from mmcds.paper import Cell, compose
from mmcds.paper.tables import TAUGHT

#: Method, by its name in the tables, or in two forms of semi-supervised training.
METHODS = ('plain', 'dsn', 'dks', 'dhm', 'cds', 'okd', 'crd', 'cds_distill', 'semi_cds', 'semi_plain')
KILLS_OF_A_RUN = 6
EPOCHS, STEPS, BATCH = 4, 12, 16


def write_config(method: str, workers: int, file: Path, teacher: Path) -> str:
    """Write the config of four short epochs; return its path."""
    config = compose(Cell('figure2' if method.startswith('semi') else 'kills', 'mini', 'fashion', method))
    config.train_cfg.update(max_epochs=EPOCHS, val_interval=1)
    config.default_hooks.checkpoint.interval = 1
    config.default_hooks.logger.interval = 1
    config.val_dataloader.dataset.indices = config.test_dataloader.dataset.indices = 100
    train = config.train_dataloader
    train.num_workers = workers
    config.val_dataloader.num_workers = 0
    if 'batch_sampler' in train:
        unlabelled = BATCH // 2 if method == 'semi_cds' else 0
        train.batch_size = BATCH + unlabelled
        train.batch_sampler.update(num_unlabelled=unlabelled, epoch=STEPS)
    else:
        train.batch_size = BATCH
        train.dataset.indices = BATCH * STEPS + BATCH // 2
    if config.model.get('teacher'):
        config.model.teacher.update(config=str(teacher / 'config.py'), checkpoint=str(teacher / f'epoch_{EPOCHS}.pth'))
    config.dump(file)
    return str(file)


def arguments(config: str, folder: Path, ranks: int, minutes: float) -> list[str]:
    """Return the arguments of a training that saves a checkpoint every so many minutes."""
    options = ['--cfg-options', f'default_hooks.checkpoint.minutes={minutes}']
    return [config, '--work-dir', str(folder), '--resume', '--launcher', 'pytorch' if ranks > 1 else 'none', *options]


def finish(arguments: list[str], ranks: int, log: Path) -> float:
    """Run a training to its end; return its seconds."""
    begin = time.time()
    if os.waitpid(start(partial(run, 'train', arguments), ranks, log), 0)[1]:
        sys.exit(f'a training failed; see the end of {log}:\n{log.read_text()[-2000:]}')
    return time.time() - begin


def kill(arguments: list[str], ranks: int, log: Path, wait: float, aim: str) -> str | None:
    """Start a training and kill it; return within what it was killed, or None if it had ended before.

    Args:
        arguments: Of the training.
        ranks: Number of its processes.
        log: File that takes what it prints.
        wait: Seconds to wait at least.
        aim: ``'anywhere'``, or within what the next chance is taken: ``'writing'`` or ``'validation'``.
    """
    folder = Path(arguments[arguments.index('--work-dir') + 1])
    before = traces(folder)
    group, begin = start(partial(run, 'train', arguments), ranks, log), time.time()
    while time.time() < begin + wait or (aim != 'anywhere' and within(folder, before) != aim):
        if os.waitpid(group, os.WNOHANG)[0]:
            return None
        time.sleep(0.001)
    os.killpg(group, signal.SIGKILL)
    os.waitpid(group, 0)
    return within(folder, before)


def traces(folder: Path) -> set[tuple[str, int]]:
    """Return the files by which :func:`within` sees what a run does, with the times of their last changes."""
    found = set()
    for path in (*folder.glob(f'*{PARTIAL}'), *folder.glob(POINTER)):
        with suppress(FileNotFoundError):  # renamed meanwhile
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def within(folder: Path, before: set[tuple[str, int]]) -> str:
    """Return what a run is doing, or was killed in, by what it has changed in its folder since it started."""
    names = {name for name, _ in traces(folder) - before}
    if any(name.endswith(PARTIAL) for name in names):
        return 'writing'
    epoch = Path(named_checkpoint(folder)).stem.replace('_', ' ') if POINTER in names else ''
    validated = folder / VALIDATED
    if epoch.startswith('epoch') and not (validated.exists() and validated.read_text() == epoch):
        return 'validation'
    return 'training'


def main() -> int:
    """Kill as often as asked for, and print what differs."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20, help='how many in all, at least (default: 20)')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--workers', nargs='+', type=int, default=[0, 2], help='loading processes (default: 0 2)')
    parser.add_argument('--ranks', nargs='+', type=int, default=[1, 2], help='processes of a training (default: 1 2)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    args = parser.parse_args()
    moments, wrong, settings = random.Random(args.seed), 0, 0
    kills: Counter[str] = Counter()
    kinds = list(product(args.methods, args.workers, args.ranks))
    moments.shuffle(kinds)
    wholes: dict[tuple, tuple[dict, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        log, teacher = Path(scratch, 'log'), Path(scratch, 'teacher')
        if set(args.methods) & set(TAUGHT):
            teacher.mkdir()
            finish(arguments(write_config('cds', 0, teacher / 'config.py', teacher), teacher, 1, 15), 1, log)
        while kills.total() < args.kills:
            kind = kinds[settings % len(kinds)]
            method, workers, ranks = kind
            settings += 1
            config = write_config(method, workers, Path(scratch, f'{method}-{workers}.py'), teacher)
            if kind not in wholes:
                folder = Path(scratch, 'whole-' + '-'.join(map(str, kind)))
                seconds = finish(arguments(config, folder, ranks, 15), ranks, log)
                wholes[kind] = state_of(folder), seconds
            whole, seconds = wholes[kind]
            folder = Path(scratch, f'killed-{settings}')
            minutes = moments.choice([1e-9, 15])  # before every step, where most kills meet a file being written
            line = arguments(config, folder, ranks, minutes)
            for _ in range(KILLS_OF_A_RUN):
                aim = moments.choice(['anywhere', 'anywhere', 'anywhere', 'writing', 'validation'])
                met = kill(line, ranks, log, moments.uniform(0.0, 0.7) * seconds, aim)
                if met:
                    kills[met] += 1
            finish(line, ranks, log)
            state = state_of(folder)
            differ = [key for key in whole if not same(whole[key], state[key])]
            differ += ['a file is not whole'] * (not all(map(is_intact, folder.glob('*.pth'))))
            wrong += bool(differ)
            often = 'every step' if minutes < 1 else 'every epoch'
            print(
                f'{method}, {workers} workers, {ranks} ranks, saved {often}: {", ".join(differ) or "equal"}',
                flush=True,
            )
            shutil.rmtree(folder)
    met = ', '.join(f'{number} in {name}' for name, number in kills.most_common())
    print(f'{kills.total()} kills ({met}) in {settings} trainings, {settings - wrong} of them equal to the last bit')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
