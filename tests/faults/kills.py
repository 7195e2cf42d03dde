#!/usr/bin/env python
"""Kill trainings at random moments, let them go on, and compare everything with trainings that were never stopped.

python tests/faults/kills.py --kills 20 --methods plain cds crd --workers 0 2 --ranks 1 2 --seed 0

Every training of four short epochs is killed (SIGKILL, the whole group of processes) three times, each time at a
random moment between its start and its usual end, and then left alone; half of them save a checkpoint before every
step. Weights, optimiser, schedules, averaged weights, best checkpoint, validation records and losses have to be equal
to the last bit. The status is 1 if anything differs.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))

from run_state import same, state_of  # noqa: E402

import mmcds.cli  # noqa: E402, F401
from mmcds.openmmlab.work_dir import is_intact  # noqa: E402
from mmcds.paper import Cell, compose  # noqa: E402
from mmcds.paper.tables import TAUGHT  # noqa: E402

#: Method, by its name in the tables, or in two forms of semi-supervised training.
METHODS = ('plain', 'dsn', 'dks', 'dhm', 'cds', 'okd', 'crd', 'cds_distill', 'semi_cds', 'semi_plain')
KILLS_OF_A_RUN = 3
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


def command(config: str, folder: Path, ranks: int, minutes: float) -> list[str]:
    """Return the command line of a training that saves a checkpoint every so many minutes."""
    start = [sys.executable, 'tools/train.py', config]
    if ranks > 1:
        start = ['bash', 'tools/dist_train.sh', config, str(ranks)]
    options = ['--cfg-options', f'default_hooks.checkpoint.minutes={minutes}']
    return [*start, '--work-dir', str(folder), '--resume', *options]


def start(line: list[str], log: Path) -> subprocess.Popen:
    """Start a training in a group of processes of its own."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}'}
    with log.open('a') as stream:
        return subprocess.Popen(line, cwd=ROOT, stdout=stream, stderr=stream, env=environment, start_new_session=True)


def finish(line: list[str], log: Path) -> float:
    """Run a training to its end; return its seconds."""
    begin = time.time()
    if start(line, log).wait():
        sys.exit(f'a training failed; see the end of {log}:\n{log.read_text()[-2000:]}')
    return time.time() - begin


def main() -> int:
    """Kill as often as asked for, and print what differs."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20, help='how many in all, at least (default: 20)')
    parser.add_argument('--methods', nargs='+', choices=METHODS, default=METHODS)
    parser.add_argument('--workers', nargs='+', type=int, default=[0, 2], help='loading processes (default: 0 2)')
    parser.add_argument('--ranks', nargs='+', type=int, default=[1, 2], help='processes of a training (default: 1 2)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    args = parser.parse_args()
    moments, kills, wrong, settings = random.Random(args.seed), 0, 0, 0
    kinds = list(product(args.methods, args.workers, args.ranks))
    moments.shuffle(kinds)
    wholes: dict[tuple, tuple[dict, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        log, teacher = Path(scratch, 'log'), Path(scratch, 'teacher')
        if set(args.methods) & set(TAUGHT):
            teacher.mkdir()
            finish(command(write_config('cds', 0, teacher / 'config.py', teacher), teacher, 1, 15), log)
        while kills < args.kills:
            kind = kinds[settings % len(kinds)]
            method, workers, ranks = kind
            settings += 1
            config = write_config(method, workers, Path(scratch, f'{method}-{workers}.py'), teacher)
            if kind not in wholes:
                folder = Path(scratch, 'whole-' + '-'.join(map(str, kind)))
                seconds = finish(command(config, folder, ranks, 15), log)
                wholes[kind] = state_of(folder), seconds
            whole, seconds = wholes[kind]
            folder = Path(scratch, f'killed-{settings}')
            minutes = moments.choice([1e-9, 15])  # before every step, where most kills meet a file being written
            line = command(config, folder, ranks, minutes)
            for _ in range(KILLS_OF_A_RUN):
                process = start(line, log)
                try:
                    process.wait(moments.uniform(0.3, 1.0) * seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
            finish(line, log)
            state = state_of(folder)
            differ = [key for key in whole if not same(whole[key], state[key])]
            differ += ['a file is not whole'] * (not all(map(is_intact, folder.glob('*.pth'))))
            wrong += bool(differ)
            often = 'every step' if minutes < 1 else 'every epoch'
            print(
                f'{method}, {workers} workers, {ranks} ranks, saved {often}: {", ".join(differ) or "equal"}',
                flush=True,
            )
    print(f'{kills} kills in {settings} trainings, {settings - wrong} of them equal to the last bit')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
