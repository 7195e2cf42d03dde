#!/usr/bin/env python
"""Draw loss and accuracy of a run, or of several over each other (Figure 4 of the paper).

python tools/plot_curves.py WORK_DIR                                         all loss terms of one run
python tools/plot_curves.py WORK_DIR WORK_DIR --names plain cds --out figure4.png   cross-entropy of several

Runs of the same name are repetitions, such as seeds: a line through their mean, in a band of one standard deviation.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from mmcds.cli.launch import PICTURES, output_file, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import compare_curves, plot_curves


def main(argv: list[str] | None = None) -> None:
    """Draw and say where."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folders of training runs')
    parser.add_argument('--out', type=output_file(*PICTURES), default='curves.png', help='picture to write')
    parser.add_argument('--metric', default='accuracy/top1', help='validation metric to draw')
    several = parser.add_argument_group('several runs, or one with --names')
    several.add_argument('--names', nargs='+', help='one per run; the same for repetitions (default: their folders)')
    several.add_argument('--loss', default='loss_ce', help='training loss to draw (default: loss_ce)')
    several.add_argument(
        '--smooth', type=float, default=3.0, help='moving average over the loss, in epochs (default: 3; 0: none)'
    )
    several.add_argument(
        '--tail', type=float, default=0.2, help='last part that an inset enlarges (default: 0.2; 0: no inset)'
    )
    args = parser.parse_args(argv)
    if len(args.work_dirs) == 1 and not args.names:
        print(plot_curves(args.work_dirs[0], args.out, args.metric))
        return
    names = args.names or [Path(folder).name for folder in args.work_dirs]
    if len(names) != len(args.work_dirs):
        raise ConfigError(f'--names has {len(names)} names for {len(args.work_dirs)} runs. Give one per run.')
    runs = list(zip(names, args.work_dirs, strict=True))
    print(compare_curves(runs, args.out, args.metric, args.loss, args.smooth, args.tail))


if __name__ == '__main__':
    run_tool(main)
