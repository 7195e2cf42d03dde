#!/usr/bin/env python
"""Train what a config describes, or on a folder of images.

python tools/train.py configs/cds/resnet50_in1k.py
python tools/train.py --data FOLDER            with a folder of images for every class; writes a config and runs it
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.registry import RUNNERS, DefaultScope

from mmcds.cli.launch import (
    add_common_arguments,
    add_step_arguments,
    check_data_root,
    is_first_process,
    keep_freed_memory,
    load_config,
    merge_step_arguments,
    run_tool,
    seed_number,
    set_loader_defaults,
)
from mmcds.cli.own_data import METHOD, METHODS, MODEL, MODELS, write_config
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import StopHook
from mmcds.openmmlab.record import record_run
from mmcds.openmmlab.runner import Runner
from mmcds.openmmlab.work_dir import POINTER, checkpoints, latest_checkpoint, only_training, set_aside

#: Trackers: package, and MMEngine's class.
TRACKERS = {
    'tensorboard': ('tensorboard', 'TensorboardVisBackend'),
    'wandb': ('wandb', 'WandbVisBackend'),
    'mlflow': ('mlflow', 'MLflowVisBackend'),
}
#: Options that say what a config of a folder of images is written from.
OWN_OPTIONS = ('unlabelled', 'model', 'pretrained', 'method', 'epochs')


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_common_arguments(parser, config_needed=False)
    own = parser.add_argument_group('a folder of images in the place of a config')
    own.add_argument(
        '--data', metavar='FOLDER', help='a folder of images for every class, or train/ and val/ with such folders'
    )
    own.add_argument('--unlabelled', metavar='FOLDER', help='images without labels, which CDS contrasts too')
    own.add_argument('--model', help=f'network: {", ".join(MODELS)}, or timm/NAME (default: {MODEL})')
    own.add_argument(
        '--pretrained',
        nargs='?',
        const=True,
        metavar='FILE',
        help="start from this checkpoint, or without a value from timm's weights, which are downloaded",
    )
    own.add_argument('--method', choices=METHODS, help=f'how it is trained (default: {METHOD})')
    own.add_argument('--epochs', type=int, help='number of epochs (default: by the number of images)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or without a value from the latest one in the work dir',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='start anew in a work dir that holds a run, which is set aside'
    )
    add_step_arguments(parser)
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate to the actual total batch size'
    )
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate during training')
    parser.add_argument('--seed', type=seed_number, help='seed of all random numbers')
    parser.add_argument(
        '--track',
        nargs='+',
        choices=TRACKERS,
        default=[],
        help='send scalars to these too; all of them work without a network',
    )
    return parser.parse_args(argv)


def track(config: Config, names: Sequence[str]) -> None:
    """Add trackers to what a run writes its scalars to.

    MLflow writes where ``MLFLOW_TRACKING_URI`` says, by default into a data base in the work dir.

    Raises:
        ConfigError: If a package is missing, or the config has no visualizer.
    """
    for name in names:
        package, backend = TRACKERS[name]
        if find_spec(package) is None:
            raise ConfigError(f'--track {name} needs its package: pip install {name}.')
        if 'visualizer' not in config:
            raise ConfigError(f'--track {name}: the config has no visualizer that it could be added to. Add one.')
        others = config.visualizer.get('vis_backends') or []
        own = {}
        if name == 'mlflow':
            place = f'sqlite:///{Path(config.work_dir).absolute()}/mlflow.db'
            own = dict(tracking_uri=os.environ.get('MLFLOW_TRACKING_URI', place))
        config.visualizer.vis_backends = [*others, dict(type=backend, **own)]


def merge_train_arguments(config: Config, args: Namespace) -> None:
    """Write the options of training into the config.

    Raises:
        ConfigError: If an option does not fit the config, or if the work dir holds another run.
    """
    track(config, args.track)
    if args.no_validate:
        config.val_cfg = config.val_dataloader = config.val_evaluator = None
    if args.seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=args.seed)
    merge_step_arguments(config, args)
    if args.auto_scale_lr:
        if not config.get('auto_scale_lr'):
            raise ConfigError(
                f'--auto-scale-lr: {args.config} has no auto_scale_lr. Add '
                'auto_scale_lr=dict(base_batch_size=...), the batch size its lr was chosen for.'
            )
        config.auto_scale_lr.enable = True
    if args.resume == 'auto':
        if latest_checkpoint(config.work_dir):  # otherwise the run starts, from load_from if the config has one
            config.resume, config.load_from = True, None
    elif args.resume:
        config.resume, config.load_from = True, args.resume
        if not Path(config.load_from).is_file():
            raise ConfigError(
                f'--resume: {config.load_from} does not exist. Without a value, the latest '
                f'checkpoint in {config.work_dir} is taken.'
            )
    elif args.overwrite:
        if is_first_process() and (checkpoints(config.work_dir) or Path(config.work_dir, POINTER).exists()):
            set_aside(config.work_dir)
    elif checkpoints(config.work_dir) or Path(config.work_dir, POINTER).exists():
        raise ConfigError(
            f'work dir {config.work_dir} holds a run already (its latest checkpoint: '
            f'{next(iter(checkpoints(config.work_dir)), "unreadable")}). Go on with it by --resume, start anew by '
            '--overwrite, or choose another --work-dir.'
        )


def warn_about_batch_size(runner: Runner) -> None:
    """Say it when the learning rate was chosen for another total batch size."""
    scale = runner.cfg.get('auto_scale_lr') or {}
    size = runner.cfg.train_dataloader.get('batch_size')
    if not size or not scale.get('base_batch_size') or scale.get('enable'):
        return
    accumulated = runner.cfg.optim_wrapper.get('accumulative_counts', 1)
    total = get_world_size() * size * accumulated
    if total != scale['base_batch_size']:
        times = f' x {accumulated} accumulated' if accumulated > 1 else ''
        runner.logger.warning(
            f'The total batch is {get_world_size()} process(es) x {size}{times} = {total} images, but '
            f'the learning rate was chosen for {scale["base_batch_size"]}. Set '
            'train_dataloader.batch_size, or give --auto-scale-lr.'
        )


def main(argv: list[str] | None = None) -> Runner:
    """Build the runner and train; the caller gets the runner back."""
    args = parse_args(argv)
    if (args.config is None) == (args.data is None):
        raise ConfigError('give either a config or --data FOLDER. `--help` lists the options.')
    if args.data is None:
        given = [f'--{name}' for name in OWN_OPTIONS if getattr(args, name) is not None]
        if given:
            raise ConfigError(
                f'{", ".join(given)}: only for --data FOLDER; the config {args.config} says such things itself. '
                'Change them there, or by options such as --cfg-options train_cfg.max_epochs=N.'
            )
    if args.data is not None:
        args.config = write_config(args)
    keep_freed_memory()
    config = load_config(args)
    with only_training(config.work_dir) if is_first_process() else nullcontext():
        merge_train_arguments(config, args)
        set_loader_defaults(config)
        check_data_root(config, ('train_dataloader', 'val_dataloader'))
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
            runner = RUNNERS.build(config) if 'runner_type' in config else Runner.from_cfg(config)
            runner.register_hook(StopHook())
            warn_about_batch_size(runner)
            if is_first_process():
                record_run(runner, [*sys.argv[:1], *(sys.argv[1:] if argv is None else argv)])
            runner.train()
    return runner


if __name__ == '__main__':
    run_tool(main)
