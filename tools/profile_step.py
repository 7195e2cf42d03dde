#!/usr/bin/env python
"""Where the time of your training goes: python tools/profile_step.py CONFIG, with the options of tools/train.py.

Runs some steps of the config's own loader, model and optimiser and prints how long each part takes. Work dirs are not
touched. On a GPU the parts are synchronised with the CPU, so their sum is an upper bound of the step in training.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import json
import tempfile
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmcds.cli.launch import (
    add_common_arguments,
    add_step_arguments,
    check_data_root,
    keep_freed_memory,
    load_config,
    merge_step_arguments,
    output_file,
    run_tool,
    set_loader_defaults,
)
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import CompileHook
from mmcds.openmmlab.runner import Runner

PARTS = (
    'data wait',
    'CPU to device, preprocessing',
    'backbone',
    'heads',
    'teacher',
    'losses',
    'rest of the forward pass',
    'backward',
    'optimiser',
)


class Clock:
    """Charges every moment to the innermost part that is running."""

    def __init__(self, synchronise: Callable[[], None]) -> None:
        self.steps: list[dict[str, float]] = []
        self._synchronise = synchronise
        self._running: list[str] = []
        self._last = 0.0

    def _charge(self) -> None:
        self._synchronise()
        now = time.perf_counter()
        if self._running:
            self.steps[-1][self._running[-1]] += now - self._last
        self._last = now

    def enter(self, part: str) -> None:
        """From now on, time belongs to ``part``."""
        self._charge()
        self._running.append(part)

    def leave(self) -> None:
        """From now on, time belongs to what was running before."""
        self._charge()
        self._running.pop()

    @contextmanager
    def part(self, part: str) -> Iterator[None]:
        """A part as a block."""
        self.enter(part)
        try:
            yield
        finally:
            self.leave()

    def watch(self, module: nn.Module, part: str) -> None:
        """Every forward pass of a module is a part."""
        module.register_forward_pre_hook(lambda *_: self.enter(part))
        module.register_forward_hook(lambda *_: self.leave())

    def wrap(self, owner: object, name: str, part: str) -> None:
        """Every call of a method is a part."""
        method = getattr(owner, name)

        def timed(*args, **kwargs):
            with self.part(part):
                return method(*args, **kwargs)

        setattr(owner, name, timed)


def watch_model(clock: Clock, model: nn.Module) -> None:
    """Name the parts of a model."""
    clock.watch(model.data_preprocessor, 'CPU to device, preprocessing')
    clock.watch(model.backbone, 'backbone')
    for supervision in getattr(model, 'supervisions', nn.ModuleDict()).values():
        clock.watch(supervision, 'losses')
        clock.wrap(supervision, 'embed', 'heads')
    if getattr(model, 'teacher', None) is not None:
        clock.wrap(model, 'teacher', 'teacher')


def run_steps(config: Config, steps: int, warmup: int, trace: str | None) -> tuple[list[dict[str, float]], int]:
    """Seconds of every part in every step, and the number of images in a step."""
    runner = Runner.from_cfg(config)
    loader = runner.train_loop.dataloader
    if not len(loader):
        raise ConfigError('train_dataloader gives no batch: fewer images than batch_size with drop_last. Lower it.')
    model, wrapper = runner.model, runner.build_optim_wrapper(config.optim_wrapper)
    runner._init_model_weights()
    for hook in runner.hooks:
        if isinstance(hook, CompileHook):  # it changes how a step is computed
            hook.before_train(runner)
    device = next(model.parameters()).device
    clock = Clock(torch.cuda.synchronize if device.type == 'cuda' else lambda: None)
    watch_model(clock, model)
    model.train()

    def batches() -> Iterator[dict]:
        while True:
            yield from loader

    def step() -> int:
        clock.steps.append(defaultdict(float))
        with clock.part('data wait'):
            data = next(source)
        with clock.part('rest of the forward pass'), wrapper.optim_context(model):
            data = model.data_preprocessor(data, True)
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        with clock.part('backward'):
            wrapper.backward(wrapper.scale_loss(loss))
        with clock.part('optimiser'):
            wrapper.step()
            wrapper.zero_grad()
        return len(data['data_samples'])

    source = batches()
    for _ in range(warmup + steps):
        images = step()
    timed = clock.steps[warmup:]
    if trace:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == 'cuda':
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            step()
        profiler.export_chrome_trace(trace)
    return timed, images


def main(argv: list[str] | None = None) -> dict:
    """Run the steps and print the table; return it as well."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    add_common_arguments(parser)
    add_step_arguments(parser)
    parser.add_argument('--steps', type=int, default=20, help='steps that count')
    parser.add_argument('--warmup', type=int, default=5, help='steps before them')
    parser.add_argument('--json', type=output_file('.json'), metavar='FILE', help='write the table')
    parser.add_argument(
        '--trace',
        type=output_file('.json', '.json.gz'),
        metavar='FILE',
        help='write one more step for chrome://tracing or ui.perfetto.dev',
    )
    args = parser.parse_args(argv)
    if args.steps < 1 or args.warmup < 0:
        raise ConfigError(f'--steps is {args.steps} and --warmup {args.warmup}; at least 1 and 0 are needed.')
    keep_freed_memory()
    config = load_config(args)
    merge_step_arguments(config, args)
    set_loader_defaults(config)
    check_data_root(config, ('train_dataloader',))
    config.log_level = 'WARNING'
    with tempfile.TemporaryDirectory() as folder:
        config.work_dir = folder
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
            timed, images = run_steps(config, args.steps, args.warmup, args.trace)
    total = median(sum(step.values()) for step in timed)
    seconds = {part: median(step[part] for step in timed) for part in PARTS}
    table = dict(
        images=images, seconds=total, images_per_second=images / total, parts={k: v for k, v in seconds.items() if v}
    )
    print(f'{args.config}: median of {args.steps} steps of {images} images')
    for part, value in table['parts'].items():
        print(f'  {part:45}{1e3 * value:10.1f} ms{100 * value / total:7.1f} %')
    print(f'  {"step":45}{1e3 * total:10.1f} ms   {table["images_per_second"]:.1f} images/s')
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=2) + '\n')
    return table


if __name__ == '__main__':
    run_tool(main)
