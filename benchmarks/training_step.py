#!/usr/bin/env python
"""Time of a CDS training step against the same network without heads, and of its settings, side by side in one run.

    python benchmarks/training_step.py                             # all cases, about five minutes on two quiet cores
    python benchmarks/training_step.py --cases resnet18_32px       # one of them; the others stay in the JSON file

A step is preprocessing, forward, losses, backward and optimiser on the same images, two views each. Every round runs
each contestant once, in changing order; ratios are taken within a round, and their median is reported.
"""

import json
import logging
import os
import platform
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from statistics import median

import matplotlib
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import mmcds.openmmlab
from mmcds.cli.launch import keep_freed_memory

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from mmengine.optim import build_optim_wrapper

RESULTS = Path(__file__).parent / 'results'
CONFIGS = Path(mmcds.__file__).parents[1] / 'configs'
#: Config, side of the images, images per step.
CASES = {
    'resnet18_32px': ('cds/resnet18_cifar100.py', 32, 32),
    'resnet18w16_28px': ('cds/resnet18w16_fashion.py', 28, 64),
    'resnet50_224px': ('cds/resnet50_in1k.py', 224, 4),
}
#: Precision and memory layout.
SETTINGS = {
    'float32 contiguous': ('mmengine.OptimWrapper', False),
    'float32 channels_last': ('mmengine.OptimWrapper', True),
    'bfloat16 contiguous': ('mmpretrain.BF16OptimWrapper', False),
    'bfloat16 channels_last': ('mmpretrain.BF16OptimWrapper', True),
}


def build_step(config: Config, wrapper: str, channels_last: bool, heads: bool, data: dict) -> Callable[[], None]:
    """One training step of the config's model, with or without its heads."""
    torch.manual_seed(0)
    model_config = {**config.model, 'data_preprocessor': config.data_preprocessor, 'channels_last': channels_last}
    if not heads:
        model_config['supervisions'] = None
    model = MODELS.build(model_config).to(data['inputs'].device).train()
    optimiser = {**config.optim_wrapper.optimizer, 'lr': 1e-4, 'fused': True}
    optim_wrapper = build_optim_wrapper(model, dict(type=wrapper, optimizer=optimiser))
    return lambda: model.train_step(data, optim_wrapper) and None


def time_case(case: str, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every contestant in every round."""
    path, side, images = CASES[case]
    config = Config.fromfile(CONFIGS / path)
    inputs = torch.randint(0, 256, (images, 2, 3, side, side), dtype=torch.uint8, device=device)
    samples = [DataSample().set_gt_label(index % config.num_classes) for index in range(images)]
    data = dict(inputs=inputs, data_samples=samples)
    steps = {
        f'{setting}, {name}': build_step(config, wrapper, layout, heads, data)
        for setting, (wrapper, layout) in SETTINGS.items()
        for name, heads in (('backbone', False), ('CDS', True))
    }

    def run(step: Callable[[], None]) -> float:
        begin = time.perf_counter()
        step()
        if device.type == 'cuda':
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    for step in steps.values():
        run(step), run(step)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, start = list(steps), time.perf_counter()
    while len(times[names[0]]) < 5 or time.perf_counter() - start < seconds:
        names.append(names.pop(0))
        for name in names:
            times[name].append(run(steps[name]))
    return times


def summarise(times: dict[str, list[float]]) -> dict[str, dict]:
    """Median seconds, the ratio of CDS to the backbone, and that of every setting to the first one."""
    rows = {}
    for setting in SETTINGS:
        backbone, cds = times[f'{setting}, backbone'], times[f'{setting}, CDS']
        first = times[f'{next(iter(SETTINGS))}, CDS']
        rows[setting] = {
            'backbone_seconds': median(backbone),
            'cds_seconds': median(cds),
            'cds_over_backbone': median(a / b for a, b in zip(cds, backbone, strict=True)),
            'cds_over_first': median(a / b for a, b in zip(cds, first, strict=True)),
        }
    return rows


def plot(stored: dict[str, dict], path: Path) -> None:
    """Draw the ratio of CDS to the backbone for every case and setting."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout='constrained')
    width = 0.8 / len(SETTINGS)
    for number, setting in enumerate(SETTINGS):
        ratios = [result['settings'][setting]['cds_over_backbone'] for result in stored.values()]
        axes.bar([place + number * width for place in range(len(stored))], ratios, width, label=setting)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(stored))], list(stored))
    axes.set(ylabel='CDS step / step without heads', ylim=(0.9, None))
    axes.axhline(1.12, color='black', linewidth=0.8, linestyle='--')
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write and draw."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cases', nargs='+', default=list(CASES), choices=CASES)
    parser.add_argument('--seconds', type=float, default=40, help='of each case; at least five rounds')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of training_step.json and .png')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    keep_freed_memory()  # as tools/train.py does
    device = torch.device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / 'training_step.json'
    stored = json.loads(file.read_text()) if file.exists() else {}
    for case in args.cases:
        times = time_case(case, args.seconds, device)
        rows = summarise(times)
        name = (
            torch.cuda.get_device_name() if device.type == 'cuda' else f'{platform.machine()}, {args.threads} threads'
        )
        stored[case] = dict(
            device=name, torch=torch.__version__, rounds=len(next(iter(times.values()))), settings=rows
        )
        print(f'\n{case}: {stored[case]["rounds"]} rounds, {name}')
        print(f'{"":26}{"backbone, ms":>14}{"CDS, ms":>10}{"CDS / backbone":>16}{"/ first CDS":>13}')
        for setting, row in rows.items():
            print(
                f'{setting:26}{1e3 * row["backbone_seconds"]:14.1f}{1e3 * row["cds_seconds"]:10.1f}'
                f'{row["cds_over_backbone"]:16.3f}{row["cds_over_first"]:13.3f}',
                flush=True,
            )
        stored = {key: stored[key] for key in CASES if key in stored}
        file.write_text(json.dumps(stored, indent=1))
    plot(stored, args.out / 'training_step.png')


if __name__ == '__main__':
    main()
