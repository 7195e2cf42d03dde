#!/usr/bin/env python
"""Draw loss and accuracy of a run: python tools/plot_curves.py WORK_DIR --out curves.png."""

from argparse import ArgumentParser

from mmcds.curves import plot_curves
from mmcds.launch import run_tool


def main(argv: list[str] | None = None) -> None:
    """Draw and say where."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help='folder of a training run')
    parser.add_argument('--out', default='curves.png', help='picture to write')
    parser.add_argument('--metric', default='accuracy/top1', help='validation metric to draw')
    args = parser.parse_args(argv)
    print(plot_curves(args.work_dir, args.out, args.metric))


if __name__ == '__main__':
    run_tool(main)
