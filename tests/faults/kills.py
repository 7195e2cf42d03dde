#!/usr/bin/env python
"""Kill trainings at random moments, let them go on, and compare everything with trainings that were never stopped.

python tests/faults/kills.py --kills 20 --methods plain cds semi --workers 0 2 --ranks 1 2 --seed 0

Every training of four short epochs is killed (SIGKILL, the whole group of processes) three times, each time at a
random moment between its start and its usual end, and then left alone. Weights, optimiser, schedules, averaged
weights, best checkpoint, validation records and losses have to be equal to the last bit. The status is 1 if anything
differs.
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

from mmcds.openmmlab.work_dir import is_intact  # noqa: E402

CONFIGS = {
    'plain': 'configs/plain/resnet18w16_fashion.py',
    'cds': 'configs/cds/resnet18w16_fashion.py',
    'semi': 'configs/semi/resnet18w16s_fashion.py',
    'semi-plain': 'configs/semi/resnet18w16s_fashion-plain.py',
}
KILLS_OF_A_RUN = 3


def command(method: str, folder: Path, workers: int, ranks: int) -> list[str]:
    """Return the command line of a training."""
    start = [sys.executable, 'tools/train.py', CONFIGS[method]]
    if ranks > 1:
        start = ['bash', 'tools/dist_train.sh', CONFIGS[method], str(ranks)]
    options = [
        'train_cfg.max_epochs=4',
        'train_dataloader.batch_size=16',
        f'train_dataloader.num_workers={workers}',
        'val_dataloader.num_workers=0',
        'val_dataloader.dataset.indices=100',
        'default_hooks.logger.interval=1',
    ]
    if method.startswith('semi'):
        few = 0 if method == 'semi-plain' else 8
        options += [f'train_dataloader.batch_sampler.num_unlabelled={few}', 'train_dataloader.batch_sampler.epoch=12']
    else:
        options += ['train_dataloader.dataset.indices=200', 'train_dataloader.drop_last=True']
    return [*start, '--work-dir', str(folder), '--resume', '--cfg-options', *options]


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
    parser.add_argument('--methods', nargs='+', choices=CONFIGS, default=['plain', 'cds', 'semi'])
    parser.add_argument('--workers', nargs='+', type=int, default=[0, 2], help='loading processes (default: 0 2)')
    parser.add_argument('--ranks', nargs='+', type=int, default=[1, 2], help='processes of a training (default: 1 2)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: 0)')
    args = parser.parse_args()
    moments, kills, wrong, settings = random.Random(args.seed), 0, 0, 0
    kinds = list(product(args.methods, args.workers, args.ranks))
    wholes: dict[tuple, tuple[dict, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        while kills < args.kills:
            kind = kinds[settings % len(kinds)]
            settings += 1
            if kind not in wholes:
                folder = Path(scratch, 'whole-' + '-'.join(map(str, kind)))
                seconds = finish(command(kind[0], folder, *kind[1:]), Path(scratch, 'log'))
                wholes[kind] = state_of(folder), seconds
            whole, seconds = wholes[kind]
            folder = Path(scratch, f'killed-{settings}')
            line = command(kind[0], folder, *kind[1:])
            for _ in range(KILLS_OF_A_RUN):
                process = start(line, Path(scratch, 'log'))
                try:
                    process.wait(moments.uniform(0.3, 1.0) * seconds)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    kills += 1
            finish(line, Path(scratch, 'log'))
            state = state_of(folder)
            differ = [key for key in whole if not same(whole[key], state[key])]
            differ += ['a file is not whole'] * (not all(map(is_intact, folder.glob('*.pth'))))
            wrong += bool(differ)
            print(f'{kind[0]}, {kind[1]} workers, {kind[2]} ranks: {", ".join(differ) or "equal"}', flush=True)
    print(f'{kills} kills in {settings} trainings, {settings - wrong} of them equal to the last bit')
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
