#!/usr/bin/env python
"""Compose detection scenes from real Fashion-MNIST items: python tools/make_fashion_scenes.py.

Writes OUT/{train,test}/NNNNNN.png and OUT/annotations/{train,test}.json in the format of COCO. Scenes that are there
already are not made again.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import os
from argparse import ArgumentParser
from collections import Counter
from json import loads
from pathlib import Path

from mmcds.cli.launch import output_folder, run_tool, seed_number
from mmcds.data.fashion_scenes import COUNTS, EMBEDDED, SceneRecipe, write_scenes


def main(argv: list[str] | None = None) -> None:
    """Write both splits and say what they hold."""
    default = SceneRecipe()
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out',
        type=output_folder,
        help='folder of the data set (default: $MMCDS_DATA_ROOT/fashion_scenes or data/fashion_scenes)',
    )
    parser.add_argument(
        '--source',
        default=EMBEDDED,
        help='folder with the IDX files of Fashion-MNIST, .gz or not (default: the embedded 5,000 + 2,000 images)',
    )
    parser.add_argument('--train', type=int, default=COUNTS['train'], help='training scenes (default: 1000)')
    parser.add_argument('--test', type=int, default=COUNTS['test'], help='test scenes (default: 400)')
    parser.add_argument('--seed', type=seed_number, default=0, help='scene i depends on seed and i alone (default: 0)')
    parser.add_argument('--size', type=int, default=default.size, help='width and height in pixels (default: 96)')
    parser.add_argument(
        '--items', type=int, nargs=2, default=default.items, metavar=('MIN', 'MAX'), help='items per scene (2 5)'
    )
    parser.add_argument(
        '--item-size',
        type=int,
        nargs=2,
        default=default.item_size,
        metavar=('MIN', 'MAX'),
        help='longer side of an item in pixels (20 56)',
    )
    parser.add_argument(
        '--max-occlusion',
        type=float,
        default=default.max_occlusion,
        help='share of an item that others may cover (0.3)',
    )
    parser.add_argument('--no-flip', action='store_true', help='never mirror an item')
    parser.add_argument(
        '--clutter', type=float, default=default.clutter, help='brightness of the background, 0 (black) to 1 (0.5)'
    )
    parser.add_argument('--workers', type=int, default=1, help='processes (default: 1)')
    parser.add_argument('--overwrite', action='store_true', help='replace scenes that were made in another way')
    args = parser.parse_args(argv)
    out = args.out or str(Path(os.environ.get('MMCDS_DATA_ROOT') or 'data', 'fashion_scenes'))
    recipe = SceneRecipe(
        size=args.size,
        items=tuple(args.items),
        item_size=tuple(args.item_size),
        max_occlusion=args.max_occlusion,
        flip=not args.no_flip,
        clutter=args.clutter,
    )
    for split, count in (('train', args.train), ('test', args.test)):
        file, written = write_scenes(
            out,
            split,
            count,
            recipe,
            seed=args.seed,
            source=args.source,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        areas = [annotation['area'] for annotation in loads(file.read_text())['annotations']]
        sizes = Counter('small' if area < 32**2 else 'medium' if area < 96**2 else 'large' for area in areas)
        print(
            f'{file}: {count} scenes {"written" if written else "were there already"}, {len(areas)} items: '
            + ', '.join(f'{sizes[name]} {name}' for name in ('small', 'medium', 'large'))
        )


if __name__ == '__main__':
    run_tool(main)
