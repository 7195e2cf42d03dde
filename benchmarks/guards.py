#!/usr/bin/env python
"""What the guards of a training cost: exact resume, signals, checks of losses, rows, labels and images.

    python benchmarks/guards.py                      # one minute on two quiet cores

Trains configs/cds/resnet18w16_fashion.py as tools/train.py does and takes the time that is spent within every guard,
step by step, beside the time of the whole step. The random streams that begin anew for every image and view are timed
beside the pipeline of ImageNet, on synthetic JPEG files of 500 x 375 pixels, in one loading process.
"""

import json
import logging
import os
import platform
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope

import mmcds.openmmlab
from mmcds.cli.launch import keep_freed_memory, set_loader_defaults
from mmcds.losses import supcon
from mmcds.openmmlab import hooks
from mmcds.openmmlab.runner import Runner
from mmcds.views import fused_view, keyed, multi_view, preprocessor

RESULTS = Path(__file__).parent / 'results'
CONFIGS = Path(mmcds.__file__).parents[1] / 'configs'
#: Guards: where they stand, and what they are.
GUARDS = {
    'random streams of the step': (hooks.EpochSeedHook, 'before_train_iter'),
    'signals and minutes': (hooks.StopHook, 'before_train_iter'),
    'finite loss': (hooks.CheckFiniteHook, 'after_train_iter'),
    'labels': (preprocessor.CDSDataPreprocessor, '_check_labels'),
    'rows of the loss': (supcon, 'check_rows'),
}


class Stopwatch:
    """Adds up the time within functions, step by step."""

    def __init__(self) -> None:
        self.now: dict[str, float] = defaultdict(float)
        self.steps: list[dict[str, float]] = []

    def watch(self, name: str, owner: Any, attribute: str) -> None:
        """Replace a function by one that is timed."""
        function = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.now[name] += time.perf_counter() - begin

        setattr(owner, attribute, timed)


class EachStep(Hook):
    """Notes what every step took."""

    priority = 'LOWEST'

    def __init__(self, watch: Stopwatch) -> None:
        self.watch, self.begin = watch, time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, **_: Any) -> None:
        """Close the step."""
        now = time.perf_counter()
        self.watch.steps.append({**self.watch.now, 'step': now - self.begin})
        self.watch.now.clear()
        self.begin = now


def time_training(steps: int) -> dict[str, float]:
    """Return the median seconds of a step, and of each guard within one."""
    watch = Stopwatch()
    for name, (owner, attribute) in GUARDS.items():
        watch.watch(name, owner, attribute)
    config = Config.fromfile(CONFIGS / 'cds/resnet18w16_fashion.py')
    config.train_cfg.update(max_epochs=1)
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.train_dataloader.dataset.indices = steps * config.train_dataloader.batch_size
    config.default_hooks.update(checkpoint=None, report=None, progress=None)
    set_loader_defaults(config)
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmpretrain'):
        config.work_dir = folder
        runner = Runner.from_cfg(config)
        runner.register_hook(hooks.StopHook())
        runner.register_hook(EachStep(watch))
        runner.train()
    kept = watch.steps[len(watch.steps) // 4 :]
    return {name: median(step.get(name, 0.0) for step in kept) for name in ('step', *GUARDS)}


def time_streams(images: int) -> dict[str, float]:
    """Return the seconds of an image in a loading process, and of the streams that begin for it and its views."""
    config = Config.fromfile(CONFIGS / 'cds/resnet50_in1k.py')
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmpretrain'):
        pipeline = Compose(config.train_dataloader.dataset.pipeline)
        key = keyed.EpochKey(shared=False)
        pipeline.transforms.insert(0, keyed.SeedByImage(key))
        for step in pipeline.transforms:
            if hasattr(step, 'epoch_key'):
                step.epoch_key = key
        path = Path(folder, 'image.jpg')
        noise = np.random.default_rng(0).integers(0, 255, (47, 63, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC))
        watch = Stopwatch()
        for module in (keyed, multi_view, fused_view):
            watch.watch('streams', module, 'seed_streams')
        whole, streams = [], []
        for index in range(images):
            begin = time.perf_counter()
            pipeline(dict(img_path=str(path), gt_label=0, sample_idx=index))
            whole.append(time.perf_counter() - begin)
            streams.append(watch.now.pop('streams'))
    return {'image': median(whole), 'random streams of the image and its views': median(streams)}


def main() -> None:
    """Measure, print and write."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--steps', type=int, default=76, help='steps of the training (default: 76)')
    parser.add_argument('--images', type=int, default=400, help='images for the loading process (default: 400)')
    parser.add_argument('--out', type=Path, default=RESULTS / 'guards.json', help='file to write')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    keep_freed_memory()
    results = {'training': time_training(args.steps), 'loading': time_streams(args.images)}
    for title, whole in (('training', 'step'), ('loading', 'image')):
        found = results[title]
        print(f'{title}: {whole} {found[whole] * 1e3:.2f} ms')
        guards = {name: seconds for name, seconds in found.items() if name != whole}
        for name, seconds in {**guards, 'all guards': sum(guards.values())}.items():
            print(f'    {name:45} {seconds * 1e3:7.3f} ms  {100 * seconds / found[whole]:6.2f} %')
    machine = dict(cores=os.cpu_count(), torch=torch.__version__, processor=platform.processor())
    args.out.write_text(json.dumps({'machine': machine, **results}, indent=1) + '\n')
    print(f'written: {args.out}')


if __name__ == '__main__':
    main()
