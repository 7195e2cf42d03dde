#!/usr/bin/env python
"""Evaluate a checkpoint: python tools/test.py CONFIG CHECKPOINT."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser, Namespace

import mmengine
from mmengine.registry import DefaultScope

from mmcds.cli.launch import add_common_arguments, load_config, output_file, prepare_testing, run_tool
from mmcds.openmmlab.runner import Runner


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a training run')
    parser.add_argument('--out', type=output_file('.json'), help='file for the metrics, .json')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Evaluate and return the metrics."""
    args = parse_args(argv)
    config = load_config(args)
    prepare_testing(config, args.checkpoint)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        metrics = Runner.from_cfg(config).test()
    if args.out:
        mmengine.dump(metrics, args.out)
    return metrics


if __name__ == '__main__':
    run_tool(main)
