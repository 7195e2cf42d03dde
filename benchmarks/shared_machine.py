#!/usr/bin/env python
"""How a training step on the CPU fares beside other processes that are always busy, with and without spinning threads.

    python benchmarks/shared_machine.py              # eight minutes on a machine that is otherwise quiet

Threads of OpenMP spin where they wait for each other, which steals the time of those that they wait for once there
are more threads than cores. Each contestant is a process that trains configs/cds/resnet18w16_fashion.py step by step;
they take turns, alone and beside ``--busy`` processes per core. `fair` is what a system would give in which nothing
waits: with B busy processes and as many threads as cores, C, a step takes (C + B) / C times as long as alone.
"""

import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / 'results'
CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
#: Contestants: environment variables.
SETTINGS = {
    'libgomp default': {'GOMP_SPINCOUNT': '300000'},
    'mmcds': {},
    'passive': {'OMP_WAIT_POLICY': 'PASSIVE'},
    'spin 1,000': {'GOMP_SPINCOUNT': '1000'},
    'spin 100,000': {'GOMP_SPINCOUNT': '100000'},
}


def serve() -> None:
    """Take steps for so many seconds as each line of the input says, and print their median time."""
    import mmcds.cli  # noqa: F401

    # isort: split

    import torch
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    from mmcds.cli.launch import keep_freed_memory

    keep_freed_memory()
    config = Config.fromfile(CONFIGS / 'cds/resnet18w16_fashion.py')
    torch.manual_seed(0)
    model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train()
    wrapper = build_optim_wrapper(model, dict(optimizer={**config.optim_wrapper.optimizer, 'lr': 1e-4, 'fused': True}))
    images = torch.randint(0, 255, (64, 2, 3, 28, 28), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=[DataSample().set_gt_label(index % 10) for index in range(64)])
    for line in sys.stdin:
        times, end = [], time.perf_counter() + float(line)
        while time.perf_counter() < end or len(times) < 2:
            begin = time.perf_counter()
            model.train_step(data, wrapper)
            times.append(time.perf_counter() - begin)
        print(median(times), flush=True)


def take(process: subprocess.Popen, seconds: float) -> float:
    """Let a contestant take its turn; return the seconds of a step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f'{seconds}\n')
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Measure, print and write."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--busy', type=int, default=3, help='busy processes per core (default: 3)')
    parser.add_argument('--rounds', type=int, default=5, help='turns of every contestant, alone and not (default: 5)')
    parser.add_argument('--seconds', type=float, default=4, help='of a turn (default: 4)')
    parser.add_argument('--settings', nargs='+', choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument('--out', type=Path, default=RESULTS / 'shared_machine.json', help='file to write')
    parser.add_argument('--serve', action='store_true', help='be a contestant; used by the script itself')
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    cores = len(os.sched_getaffinity(0))
    names = ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')
    clean = {key: value for key, value in os.environ.items() if key not in names}
    line = [sys.executable, __file__, '--serve']
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    contestants = {
        name: subprocess.Popen(line, env={**clean, **SETTINGS[name]}, **pipes)  # type: ignore[call-overload]
        for name in args.settings
    }
    for each in contestants.values():
        take(each, 1)
    found: dict[str, dict[str, float]] = {name: {} for name in contestants}
    for place, busy in (('alone', 0), ('shared', args.busy * cores)):
        others = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(busy)]
        try:
            rounds = [
                {name: take(each, args.seconds) for name, each in contestants.items()} for _ in range(args.rounds)
            ]
        finally:
            for each in others:
                each.kill()
        for name in contestants:
            found[name][place] = median(turn[name] for turn in rounds)
            found[name][f'{place} / default'] = median(turn[name] / turn[args.settings[0]] for turn in rounds)
    fair = (cores + args.busy * cores) / cores
    print(
        f'{cores} cores, {args.busy * cores} busy processes beside it; a fair share is {fair:.1f} times the time alone'
    )
    for name, times in found.items():
        times['slower'] = times['shared'] / times['alone']
        times['slower / fair'] = times['slower'] / fair
        print(
            f'    {name:18} alone {times["alone"] * 1e3:7.1f} ms ({times["alone / default"]:.3f}), shared '
            f'{times["shared"] * 1e3:8.1f} ms: {times["slower"]:5.1f} times, {times["slower / fair"]:.2f} of fair'
        )
    for process in contestants.values():
        process.kill()
    machine = dict(cores=cores, processor=platform.processor(), busy=args.busy * cores)
    args.out.write_text(json.dumps({'machine': machine, 'settings': found}, indent=1) + '\n')
    print(f'written: {args.out}')


if __name__ == '__main__':
    main()
