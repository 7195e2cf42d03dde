#!/usr/bin/env python
"""Say what is on images: python tools/predict.py CHECKPOINT IMAGE_OR_FOLDER [IMAGE_OR_FOLDER ...].

The checkpoint carries its config and the names of its classes, so nothing else is needed. Images are prepared as in
the test of that training.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import csv
import io
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmengine.dataset import Compose, default_collate
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from rich.progress import track
from torch import Tensor, nn

from mmcds.cli.launch import add_trust_argument, output_file, positive, run_tool
from mmcds.cli.own_data import ENDINGS, image_files
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import load_model, load_training_checkpoint, model_state
from mmcds.openmmlab.hub import class_names
from mmcds.openmmlab.runner import inner_dataset
from mmcds.openmmlab.work_dir import write_whole
from mmcds.openmmlab.zoo import find

#: Images that are shown; a file has all of them.
SHOWN = 20


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        'checkpoint', help='checkpoint of a classifier, or a network of the package such as cds_resnet18w16_fashion'
    )
    parser.add_argument('images', nargs='+', help='images, or folders with images at any depth')
    parser.add_argument('--out', type=output_file('.csv'), help='table of all predictions to write, .csv')
    parser.add_argument('--top', type=positive, default=1, help='classes for every image (default: 1)')
    parser.add_argument('--batch-size', type=positive, default=64, help='images at a time (default: 64)')
    add_trust_argument(parser)
    return parser.parse_args(argv)


def find_images(names: Sequence[str]) -> list[str]:
    """Return files as they are named, and for a folder the images that are in it.

    Raises:
        ConfigError: If a name leads nowhere, or to a folder without images.
    """
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            images = [str(path / each) for each in image_files(path)]
            if not images:
                raise ConfigError(f'{name} holds no image that ends with {", ".join(ENDINGS)}.')
            found += images
        elif path.is_file():
            found.append(name)
        else:
            raise ConfigError(f'{name} is neither an image nor a folder.')
    return found


def batches(images: Sequence[str], pipeline: Compose, size: int, bad: list[str]) -> Iterator[tuple[list[str], dict]]:
    """Yield images of one shape together, with their names.

    Args:
        images: Files.
        pipeline: What prepares them.
        size: Images in a batch at most.
        bad: Gets the files that cannot be read.
    """
    names: list[str] = []
    samples: list[dict] = []
    for name in images:
        try:
            sample = pipeline(dict(img_path=name, sample_idx=0))
        except ConfigError:  # what LoadImage raises
            bad.append(name)
            continue
        if samples and (len(samples) == size or sample['inputs'].shape != samples[0]['inputs'].shape):
            yield names, default_collate(samples)
            names, samples = [], []
        names.append(name)
        samples.append(sample)
    if samples:
        yield names, default_collate(samples)


@torch.no_grad()
def probabilities(model: nn.Module, batch: dict) -> Tensor:
    """Return the probabilities of all classes, (N, K)."""
    return torch.stack([sample.pred_score.cpu() for sample in model.test_step(batch)])


def build(path: str, top: int) -> tuple[nn.Module, Compose, tuple[str, ...], bool]:
    """Return network, pipeline, names of the classes, and whether the pipeline makes all images equally large.

    Raises:
        ConfigError: If the checkpoint cannot be read, is no classifier, or has fewer classes than ``top``.
    """
    checkpoint, config = load_training_checkpoint(find(path))
    head = config.model.get('head') or {}
    if not head.get('num_classes') or not config.get('test_dataloader'):
        raise ConfigError(
            f'{path} is a {config.model.get("type")} that gives no classes. Name a checkpoint of a classifier; for '
            'detectors there is tools/draw_detections.py.'
        )
    if top > head['num_classes']:
        raise ConfigError(f'--top is {top}, but {path} knows {head["num_classes"]} classes. Ask for so many at most.')
    steps = inner_dataset(config.test_dataloader.dataset)['pipeline']
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        model = load_model(config, model_state(checkpoint, path), path)
        pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    names = class_names(checkpoint['meta'].get('dataset_meta'), head['num_classes'])
    return model, pipeline, names, any('crop_size' in step for step in steps)


def table(rows: Sequence[Sequence[object]], top: int) -> str:
    """Return the predictions as comma separated values with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    header = ['image']
    for rank in range(1, top + 1):
        header += [f'class_{rank}', f'probability_{rank}']
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> list[list[object]]:
    """Print and write predictions; return a row for every image: file, class, probability, next class, ..."""
    args = parse_args(argv)
    images = find_images(args.images)
    model, pipeline, names, sized = build(args.checkpoint, args.top)
    bad: list[str] = []
    shapes: Counter = Counter()
    rows: list[list[object]] = []
    for files, batch in track(
        batches(images, pipeline, args.batch_size, bad),
        'Images',
        total=-(-len(images) // args.batch_size),
        disable=not sys.stdout.isatty(),
    ):
        shapes[tuple(batch['inputs'].shape[-2:])] += len(files)
        for file, scores in zip(files, probabilities(model, batch), strict=True):
            best = scores.topk(args.top)
            row: list[object] = [file]
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                row += [names[label], round(score, 4)]
            rows.append(row)
    if bad:
        print(f'{len(bad)} of {len(images)} images cannot be read, such as {bad[0]}.', file=sys.stderr)
    if not rows:
        raise ConfigError('none of the images can be read.')
    if not sized:
        sizes = ', '.join(f'{width} x {height}' for (height, width), _ in shapes.most_common(3))
        print(
            f'The test of this training changes no size, so the network saw {sizes} pixels. Give it images of the '
            'size that it was trained on.',
            file=sys.stderr,
        )
    width = max(len(str(row[0])) for row in rows[:SHOWN])
    for row in rows[:SHOWN]:
        guesses = [f'{name} {100 * score:.1f} %' for name, score in zip(row[1::2], row[2::2], strict=True)]
        print(f'{row[0]:<{width}}  {", ".join(guesses)}')
    if len(rows) > SHOWN:
        print(f'... and {len(rows) - SHOWN} more' + ('' if args.out else '; --out FILE.csv writes all') + '.')
        print(', '.join(f'{name}: {count}' for name, count in Counter(row[1] for row in rows).most_common()))
    if args.out:
        write_whole(Path(args.out), table(rows, args.top))
        print(f'written: {args.out}')
    return rows


if __name__ == '__main__':
    run_tool(main)
