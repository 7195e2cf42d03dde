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

from mmcds.cli.check_structure import check_structure
from mmcds.cli.check_values import check_number, check_whole, is_number
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
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)


def check_config(config: Config) -> None:
    """Check what a training would find out late or never: names, numbers of epochs, optimiser, schedule, loaders.

    Raises:
        ConfigError: Naming the setting, its value and the fix.
    """
    check_names(config)
    check_structure(config)
    check_lengths(config.get('train_cfg') or {})
    check_optimiser(config.get('optim_wrapper') or {})
    check_schedules(config.get('param_scheduler') or ())
    check_colours(config)
    check_topk(config)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        check_loader(name, config.get(name) or {})
    scale = config.get('auto_scale_lr') or {}
    if 'base_batch_size' in scale:
        check_whole('auto_scale_lr.base_batch_size', scale['base_batch_size'], 1)
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
        near = difflib.get_close_matches(name, KNOWN, 1, 0.8)
        swapped = near and sorted(name) == sorted(near[0]) and name in unused_names(config.filename)
        if swapped or (isinstance(config[name], Mapping) and difflib.get_close_matches(name, KNOWN, 1, 0.86)):
            raise ConfigError(f'{name} is no setting, so it would change nothing. Did you mean {near[0]}?')


def check_options(config: Config, options: Mapping[str, Any]) -> None:
    """Refuse options of the command line that would change nothing: no name of the config, or a variable of it.

    Args:
        config: What they are merged into.
        options: Values by dotted names.

    Raises:
        ConfigError: Naming the option and what is meant.
    """
    settings = {key.rpartition('.')[2]: key for key in SETTINGS}
    for name in options:
        first = name.split('.')[0]
        if first in KNOWN or (isinstance(config.get(first), Mapping) and first not in ELSEWHERE):
            continue  # a dict of another name can be a setting of the user's own code
        if first in config and first in unused_names(config.filename):
            continue  # so can another value that the config does not use itself
        if first in config:
            raise ConfigError(
                f'--cfg-options {name}: {first} is a variable of the config and was used already, so it would change '
                'nothing. Set the keys that use it, such as train_cfg.max_epochs or model.head.num_classes, or edit '
                'the file.'
            )
        near = difflib.get_close_matches(first, (*config, *KNOWN, *settings), 1, 0.8)
        found = [settings.get(each, each) for each in near]
        raise ConfigError(
            f'--cfg-options {name}: the config has no {first}, so it would change nothing.'
            + (f' Did you mean {found[0]}?' if found else ' See the config for the names that it has.')
        )


def check_lengths(train: Mapping[str, Any]) -> None:
    """Refuse a training of no epochs, and a validation every no epochs."""
    for name in ('max_epochs', 'max_iters', 'val_interval'):
        if train.get(name) is not None:
            check_whole(f'train_cfg.{name}', train[name], 1, 10**9 if name == 'max_iters' else 10**5)


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
    clip = wrapper.get('clip_grad') or {}
    if not isinstance(clip, Mapping):
        raise ConfigError(f'optim_wrapper.clip_grad is {clip!r:.80}. Set it to a dict, such as dict(max_norm=5.0).')
    for name, value in clip.items():
        if name in ('max_norm', 'clip_value'):
            check_number(f'optim_wrapper.clip_grad.{name}', value, 0, math.inf, 'a number above 0', True)
    check_whole('optim_wrapper.accumulative_counts', wrapper.get('accumulative_counts', 1), 1)


def check_colours(config: Config) -> None:
    """Refuse means and deviations of the channels with which images cannot be normalised."""
    preprocessor = config.get('data_preprocessor') or {}
    ours = str(config.model.get('type')).rpartition('.')[2] == 'CDSClassifier'  # others may have more channels
    lengths = {name: preprocessor[name] for name in ('mean', 'std') if preprocessor.get(name) is not None}
    for name, values in lengths.items():
        listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values)
        if not listed or (ours and len(values) not in (1, 3)):
            raise ConfigError(f'data_preprocessor.{name} is {values!r}. Set it to a number for each of 3 channels.')
        for value in values:
            low, high = (1e-9, 1e5) if name == 'std' else (-1e5, 1e5)
            check_number(f'data_preprocessor.{name}', value, low, high, 'grey levels, those of std above 0')
    if len(lengths) == 1:
        raise ConfigError(f'data_preprocessor has {next(iter(lengths))} alone. Give mean and std, or neither.')


def check_topk(config: Config) -> None:
    """Refuse an accuracy among more classes than there are."""
    classes = (config.model.get('head') or {}).get('num_classes')
    for name in ('val_evaluator', 'test_evaluator'):
        found = config.get(name) or ()
        for each in [found] if isinstance(found, Mapping) else found:
            topk = each.get('topk') if isinstance(each, Mapping) else None
            several = topk if isinstance(topk, Sequence) else [topk]
            if isinstance(classes, int) and any(is_number(each) and each > classes for each in several):
                raise ConfigError(f'{name}.topk is {topk}, but head.num_classes is {classes}. Ask for fewer.')


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
        begin, end = each.get('begin', 0), each.get('end')
        for key in ('eta_min', 'start_factor', 'end_factor', 'gamma', 'factor', 'power'):
            if each.get(key) is not None:
                check_number(f'param_scheduler.{place}.{key}', each[key], 0, 100, 'a number from 0 to 100')
        for key in ('begin', 'end'):
            if each.get(key) is not None and each[key] != math.inf:
                check_whole(f'param_scheduler.{place}.{key}', each[key], 0)
        for key in ('by_epoch', 'convert_to_iter_based'):
            if not isinstance(each.get(key, False), bool):
                raise ConfigError(f'param_scheduler.{place}.{key} is {each[key]!r}. Set it to True or False.')
        if end is not None and end <= begin:
            raise ConfigError(f'param_scheduler.{place} begins at {begin} and ends at {end}. Let it end later.')


def check_loader(name: str, loader: Mapping[str, Any]) -> None:
    """Refuse numbers of images and of processes that a loader cannot have."""
    for key, low, high in (('batch_size', 1, 10**6), ('num_workers', 0, 1024)):
        if loader.get(key) is not None:
            check_whole(f'{name}.{key}', loader[key], low, high)
