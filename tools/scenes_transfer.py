#!/usr/bin/env python
"""Table 4 of the paper in small: detectors on Fashion-Scenes from different first weights, compared over seeds.

python tools/scenes_transfer.py --jobs 2 pre-trains the backbones (one per seed), makes the scenes if they are missing,
trains the detectors and compares their AP (OUT/table.md, OUT/table.csv). Runs that have ended are not repeated, so the
command can be stopped, and given again with more seeds or detectors.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import os
import runpy
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from mmcds.cli.launch import OPTIONS_HELP, output_folder, positive, run_tool, seed_number
from mmcds.data.fashion_scenes import COUNTS, write_scenes
from mmcds.evaluation.sweep import Run, execute
from mmcds.openmmlab.work_dir import named_checkpoint
from mmcds.paper.tables import METHODS
from mmcds.resources import resources
from mmcds.study.statistics import compare as compare_pairs

#: Methods whose backbones are compared, as the mini scale of Table 1 has them.
STARTS = ('plain', 'plain_both', 'cds', 'cds_both', 'dsn')


def main(argv: list[str] | None = None) -> list[dict]:
    """Train what is missing and print the table; return one record per detector that was trained."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        '--detectors', nargs='+', choices=('faster-rcnn', 'retinanet'), default=['faster-rcnn'], help='what to train'
    )
    parser.add_argument(
        '--starts',
        nargs='+',
        choices=('random', *STARTS),
        default=['random', 'plain', 'cds'],
        help='first weights: random, or those of a method; plain_both and cds_both have cross-entropy on both views',
    )
    parser.add_argument(
        '--seeds', nargs='+', type=seed_number, default=[0, 1, 2], help='of pre-training and detector alike'
    )
    parser.add_argument('--jobs', type=positive, default=1, help='trainings at a time')
    parser.add_argument('--out', type=output_folder, default='work_dirs/scenes_transfer', help='folder for the runs')
    parser.add_argument('--data-root', help='folder that holds fashion_scenes/ (default: $MMCDS_DATA_ROOT or data)')
    parser.add_argument(
        '--pretrain-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of pre-training'
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=OPTIONS_HELP)
    args = parser.parse_args(argv)
    if args.data_root is not None:
        os.environ['MMCDS_DATA_ROOT'] = args.data_root  # the trainings inherit it
    scenes = Path(os.environ.get('MMCDS_DATA_ROOT') or 'data', 'fashion_scenes')
    for split, count in COUNTS.items():
        if not (scenes / 'annotations' / f'{split}.json').exists():
            write_scenes(scenes, split, count)
    out = Path(args.out)
    pretraining = {
        (start, seed): Run(
            label=start,
            config=f'mmcds::{METHODS[start].leaf.format(base="resnet18w16_fashion")}.py',
            seed=seed,
            work_dir=out / f'pretrain_{start}_{seed}',
            options=(*(f'{key}={value}' for key, value in METHODS[start].options.items()), *args.pretrain_options),
        )
        for seed in args.seeds
        for start in args.starts
        if start != 'random'
    }
    execute(pretraining.values(), args.jobs)

    def options(start: str, seed: int) -> tuple[str, ...]:
        if start == 'random':
            return tuple(args.cfg_options)
        folder = pretraining[start, seed].work_dir
        last = Path(named_checkpoint(folder))
        return (*args.cfg_options, f'model.backbone.init_cfg.checkpoint={folder / f"backbone_{last.stem}.pth"}')

    detectors = [
        Run(
            label=f'{detector} {start}',
            config=f'mmcds::detection/{detector}_resnet18w16_scenes-{"random" if start == "random" else "cds"}.py',
            seed=seed,
            work_dir=out / f'{detector}_{start}_{seed}',
            options=options(start, seed),
        )
        for detector in args.detectors
        for start in args.starts
        for seed in args.seeds
    ]
    records = execute(detectors, args.jobs)
    compare = runpy.run_path(str(resources() / 'tools' / 'compare_detection.py'))['main']
    named = [f'{run.label}={run.work_dir}' for run in detectors]
    compare([*named, '--out', str(out / 'table.md'), '--csv', str(out / 'table.csv')])
    for detector in args.detectors if len(args.seeds) > 1 else ():
        print_differences(detector, args.starts, detectors, records)
    return records


def print_differences(detector: str, starts: Sequence[str], runs: Sequence[Run], records: Sequence[dict]) -> None:
    """Print how the AP of every start differs from that of the first one, seed by seed."""
    found: dict[str, dict[int, float]] = {start: {} for start in starts}
    for run, record in zip(runs, records, strict=True):
        name, start = run.label.split(' ')
        if name == detector:
            found[start][run.seed] = record['accuracy']
    for start in starts[1:]:
        each = compare_pairs(found[start], found[starts[0]])
        print(
            f'{detector}, AP from {start} minus AP from {starts[0]}: {each.mean:+.1f} (95 %: {each.low:+.1f} to '
            f'{each.high:+.1f}, p {each.p:.3f} by a paired t-test, {each.seeds} seeds)'
        )


if __name__ == '__main__':
    run_tool(main)
