"""Refuse a config that cannot mean what its author wants, before anything is built."""

import ast
import difflib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine.runner
from mmengine.config import Config

from mmcds.core.errors import ConfigError

#: Settings that earlier versions of OpenMMLab had at the top of a config; MMEngine ignores them.
ELSEWHERE = {
    'optimizer': 'optim_wrapper=dict(optimizer=...)',
    'optimizer_config': 'optim_wrapper=dict(clip_grad=...)',
    'lr_config': 'param_scheduler=[...]',
    'evaluation': 'val_evaluator=..., train_cfg=dict(val_interval=...)',
    'checkpoint_config': 'default_hooks=dict(checkpoint=...)',
    'log_config': 'default_hooks=dict(logger=...)',
}
#: What is often meant by its last name alone.
SETTINGS = (
    'train_cfg.max_epochs',
    'train_cfg.val_interval',
    'optim_wrapper.optimizer',
    'optim_wrapper.optimizer.lr',
    'train_dataloader.batch_size',
    'train_dataloader.num_workers',
    'randomness.seed',
)
#: What the top of a config may hold.
KNOWN = (
    *(name for name in inspect.signature(mmengine.runner.Runner.__init__).parameters if name != 'self'),
    'activation_checkpointing',
    'auto_scale_lr',
    'backend_args',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'runner_type',
    'tta_model',
    'tta_pipeline',
)


def check_config(config: Config) -> None:
    """Check what a training would find out late or never: names, numbers of epochs, optimiser, schedule, loaders.

    Raises:
        ConfigError: Naming the setting, its value and the fix.
    """
    check_names(config)
    check_lengths(config.get('train_cfg') or {})
    check_optimiser(config.get('optim_wrapper') or {})
    check_schedules(config.get('param_scheduler') or ())
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        check_loader(name, config.get(name) or {})
    seed = (config.get('randomness') or {}).get('seed')
    if seed is not None:
        check_whole('randomness.seed (--seed)', seed, 0, 2**32 - 1)


def unused_names(file: str | None) -> set[str]:
    """Return what a config file assigns at its top and does not use itself, as a variable would be."""
    if file is None or not str(file).endswith('.py') or not Path(file).is_file():
        return set()
    tree = ast.parse(Path(file).read_text(encoding='utf-8'))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in names if isinstance(node.ctx, ast.Store)} - {
        node.id for node in names if isinstance(node.ctx, ast.Load)
    }


def check_names(config: Config) -> None:
    """Refuse names at the top of a config that are misspelt, or whose setting belongs elsewhere."""
    for name in config:
        if name in KNOWN:
            continue
        if name in ELSEWHERE and name in unused_names(config.filename):
            raise ConfigError(f'{name} at the top of a config sets nothing. Write {ELSEWHERE[name]}.')
        near = difflib.get_close_matches(name, KNOWN, 1, 0.86)
        if near and isinstance(config[name], Mapping):
            raise ConfigError(f'{name} is no setting, so it would change nothing. Did you mean {near[0]}?')


def check_options(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse options of the command line whose first name is in no config: they would change nothing.

    Args:
        config: What they are merged into.
        options: Values by dotted names.
    """
    settings = {key.rpartition('.')[2]: key for key in SETTINGS}
    for name in options:
        first = name.split('.')[0]
        if first in config or first in KNOWN:
            continue
        near = difflib.get_close_matches(first, (*config, *KNOWN, *settings), 1, 0.8)
        found = [settings.get(each, each) for each in near]
        raise ConfigError(
            f'--cfg-options {name}: the config has no {first}, so it would change nothing.'
            + (f' Did you mean {found[0]}?' if found else ' See the config for the names that it has.')
        )


def is_number(value: object) -> bool:
    """Return whether something is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: object, low: float, high: float, what: str, exclusive: bool = False) -> None:
    """Refuse what is no number between two limits; ``what`` describes those that are allowed."""
    if not is_number(value) or not low <= value <= high or (exclusive and value == low):  # type: ignore[operator]
        raise ConfigError(f'{name} is {value!r}. Set it to {what}.')


def check_whole(name: str, value: object, low: int, high: float = math.inf) -> None:
    """Refuse what is no whole number between two limits."""
    if not is_number(value) or int(value) != value or not low <= value <= high:  # type: ignore[call-overload,operator]
        above = 'on' if high == math.inf else f'to {high}'
        raise ConfigError(f'{name} is {value!r}. Set it to a whole number from {low} {above}.')


def check_lengths(train: Mapping[str, Any]) -> None:
    """Refuse a training of no epochs, and a validation every no epochs."""
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        if train.get(name) is not None:
            check_whole(f'train_cfg.{name}', train[name], 1)


def check_optimiser(wrapper: Mapping[str, Any]) -> None:
    """Refuse learning rates, momenta and norms with which nothing can be learned."""
    optimiser = wrapper.get('optimizer') or {}
    if 'lr' in optimiser:
        check_number('optim_wrapper.optimizer.lr', optimiser['lr'], 0, 100, 'a number from 0 to 100')
    for name in ('momentum', 'beta'):
        if name in optimiser:
            check_number(f'optim_wrapper.optimizer.{name}', optimiser[name], 0, 1 - 1e-9, 'a number from 0 to below 1')
    if 'weight_decay' in optimiser:
        check_number('optim_wrapper.optimizer.weight_decay', optimiser['weight_decay'], 0, 10, 'a number from 0 to 10')
    for name, value in (wrapper.get('clip_grad') or {}).items():
        if name in ('max_norm', 'clip_value'):
            check_number(f'optim_wrapper.clip_grad.{name}', value, 0, math.inf, 'a number above 0', True)
    check_whole('optim_wrapper.accumulative_counts', wrapper.get('accumulative_counts', 1), 1)


def numbers_in(value: object, name: str) -> Iterator[tuple[str, float]]:
    """Return all numbers within a setting, with their names."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers_in(inner, f'{name}.{key}')
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, inner in enumerate(value):
            yield from numbers_in(inner, f'{name}.{place}')
    elif isinstance(value, int | float):
        yield name, value


def check_schedules(schedules: Mapping | Sequence) -> None:
    """Refuse schedules with numbers that are none, and those that end before they begin."""
    for name, value in numbers_in(schedules, 'param_scheduler'):
        if not math.isfinite(value) and not name.endswith('.end'):
            raise ConfigError(f'{name} is {value!r}. Set it to a finite number.')
    for place, each in enumerate(schedules if isinstance(schedules, Sequence) else [schedules]):
        begin, end = (each.get('begin', 0), each.get('end')) if isinstance(each, Mapping) else (0, None)
        if end is not None and end <= begin:
            raise ConfigError(f'param_scheduler.{place} begins at {begin} and ends at {end}. Let it end later.')


def check_loader(name: str, loader: Mapping[str, Any]) -> None:
    """Refuse numbers of images and of processes that a loader cannot have."""
    for key, low in (('batch_size', 1), ('num_workers', 0)):
        if loader.get(key) is not None:
            check_whole(f'{name}.{key}', loader[key], low)
