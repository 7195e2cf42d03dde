#!/usr/bin/env python
"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import mmengine
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import mmcds  # noqa: F401  (registers its classes and the mmcds:: prefix)
from mmcds.errors import ConfigError
from mmcds.launch import add_common_arguments, check_data_root, load_config, run_tool, set_loader_defaults


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a training run')
    parser.add_argument('--out', help='file for the metrics, .json')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Evaluate and return the metrics."""
    args = parse_args(argv)
    config = load_config(args)
    if not Path(args.checkpoint).is_file():
        raise ConfigError(
            f'checkpoint {args.checkpoint} does not exist. Name a file such as work_dirs/NAME/epoch_90.pth.'
        )
    config.load_from, config.resume = args.checkpoint, False
    config.train_dataloader = config.train_cfg = config.optim_wrapper = config.param_scheduler = None
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    set_loader_defaults(config)
    check_data_root(config, ('test_dataloader',))
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        metrics = Runner.from_cfg(config).test()
    if args.out:
        mmengine.dump(metrics, args.out)
    return metrics


if __name__ == '__main__':
    run_tool(main)
