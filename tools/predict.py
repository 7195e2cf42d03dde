#!/usr/bin/env python
"""Say what is on images: python tools/predict.py CHECKPOINT IMAGE_OR_FOLDER [IMAGE_OR_FOLDER ...].

The checkpoint carries its config and the names of its classes, so nothing else is needed. Images are prepared as in
the test of that training. A detector gives boxes: class, score, and left, top, right and bottom in pixels.
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
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
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
from mmcds.views.loading import read_image

#: Images that are shown; a file has all of them.
SHOWN = 20


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        'checkpoint',
        help='checkpoint of a classifier or detector, or a network of the package such as cds_resnet18w16_fashion',
    )
    parser.add_argument('images', nargs='+', help='images, or folders with images at any depth')
    parser.add_argument('--out', type=output_file('.csv'), help='table of all predictions to write, .csv')
    parser.add_argument(
        '--top', type=positive, help='classes for every image (default: 1), or the best boxes of a detector (all)'
    )
    parser.add_argument('--score', type=float, help='boxes of at least this score (default: 0.3)')
    parser.add_argument(
        '--batch-size', type=positive, default=64, help='images at a time (default: 64; a detector has one)'
    )
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


def build(checkpoint: dict, config: Config, path: str, top: int) -> tuple[nn.Module, Compose, tuple[str, ...], bool]:
    """Return network, pipeline, names of the classes, and whether the pipeline makes all images equally large.

    Raises:
        ConfigError: If the checkpoint is that of no classifier, or has fewer classes than ``top``.
    """
    head = config.model.get('head') or {}
    if not head.get('num_classes') or not config.get('test_dataloader'):
        raise ConfigError(
            f'{path} is a {config.model.get("type")} that gives no classes. Name a checkpoint of a classifier or of a '
            'detector.'
        )
    if top > head['num_classes']:
        raise ConfigError(f'--top is {top}, but {path} knows {head["num_classes"]} classes. Ask for so many at most.')
    steps = inner_dataset(config.test_dataloader.dataset)['pipeline']
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        model = load_model(config, model_state(checkpoint, path), path)
        pipeline = Compose([TRANSFORMS.build(step) for step in steps])
    names = class_names(checkpoint['meta'].get('dataset_meta'), head['num_classes'])
    return model, pipeline, names, any('crop_size' in step for step in steps)


def classify(
    checkpoint: dict, config: Config, path: str, images: Sequence[str], top: int, size: int, bad: list[str]
) -> list[list[object]]:
    """Return a row for every image that can be read: file, class, probability, next class, ..."""
    model, pipeline, names, sized = build(checkpoint, config, path, top)
    shapes: Counter = Counter()
    rows: list[list[object]] = []
    for files, batch in track(
        batches(images, pipeline, size, bad),
        'Images',
        total=-(-len(images) // size),
        disable=not sys.stdout.isatty(),
    ):
        shapes[tuple(batch['inputs'].shape[-2:])] += len(files)
        for file, scores in zip(files, probabilities(model, batch), strict=True):
            best = scores.topk(top)
            row: list[object] = [file]
            for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                row += [names[label], round(score, 4)]
            rows.append(row)
    if rows and not sized:
        sizes = ', '.join(f'{width} x {height}' for (height, width), _ in shapes.most_common(3))
        print(
            f'The test of this training changes no size, so the network saw {sizes} pixels. Give it images of the '
            'size that it was trained on.',
            file=sys.stderr,
        )
    return rows


@torch.no_grad()
def detect(
    checkpoint: dict, config: Config, path: str, images: Sequence[str], top: int | None, least: float, bad: list[str]
) -> list[list[object]]:
    """Return a row for every image that can be read: file, and of every box, the best one first, five values.

    They are class, score, and the box as text: left, top, right and bottom, in pixels of the image.
    """
    import mmcds.detection  # noqa: F401  (MMDetection, which classifiers do without)

    steps = inner_dataset(config.test_dataloader.dataset)['pipeline']
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = load_model(config, model_state(checkpoint, path), path)
        pipeline = Compose([TRANSFORMS.build(step) for step in steps if 'LoadAnnotations' not in step['type']])
    names = (checkpoint['meta'].get('dataset_meta') or {}).get('classes', ())
    rows: list[list[object]] = []
    for name in track(images, 'Images', disable=not sys.stdout.isatty()):
        if read_image(name)[0] is None:
            bad.append(name)
            continue
        found = model.test_step(pseudo_collate([pipeline(dict(img_path=name, img_id=0))]))[0].pred_instances.cpu()
        row: list[object] = [name]
        for index in found.scores.argsort(descending=True)[:top].tolist():
            score, label = found.scores[index].item(), int(found.labels[index])
            if score >= least:
                corners = ' '.join(f'{value:.1f}' for value in found.bboxes[index].tolist())
                row += [names[label] if label < len(names) else str(label), round(score, 4), corners]
        rows.append(row)
    return rows


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> str:
    """Return the predictions as comma separated values with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows([header, *rows])
    return text.getvalue()


def main(argv: list[str] | None = None) -> list[list[object]]:
    """Print and write predictions; return what :func:`classify` or :func:`detect` says."""
    args = parse_args(argv)
    images = find_images(args.images)
    checkpoint, config = load_training_checkpoint(find(args.checkpoint))
    boxes = config.get('default_scope') == 'mmdet'
    if args.score is not None and not boxes:
        raise ConfigError(f'--score is for detectors, and {args.checkpoint} is none. Leave it out.')
    bad: list[str] = []
    if boxes:
        least = 0.3 if args.score is None else args.score
        rows = detect(checkpoint, config, args.checkpoint, images, args.top, least, bad)
        values = 3
    else:
        rows = classify(checkpoint, config, args.checkpoint, images, args.top or 1, args.batch_size, bad)
        values = 2
    if bad:
        print(f'{len(bad)} of {len(images)} images cannot be read, such as {bad[0]}.', file=sys.stderr)
    if not rows:
        raise ConfigError('none of the images can be read.')
    width = max(len(str(row[0])) for row in rows[:SHOWN])
    for file, *found in rows[:SHOWN]:
        guesses = [
            ' at '.join([f'{name} {100 * score:.1f} %', *box])
            for name, score, *box in (found[at : at + values] for at in range(0, len(found), values))
        ]
        print(f'{file:<{width}}  {", ".join(guesses) or "nothing"}')
    if len(rows) > SHOWN:
        print(f'... and {len(rows) - SHOWN} more' + ('' if args.out else '; --out FILE.csv writes all') + '.')
        counts = Counter(name for row in rows for name in (row[1::3] if boxes else row[1:2]))
        print(', '.join(f'{name}: {count}' for name, count in counts.most_common()))
    if args.out:
        if boxes:
            header = ['image', 'class', 'score', 'left', 'top', 'right', 'bottom']
            lines = [
                [row[0], *row[at : at + 2], *str(row[at + 2]).split()] for row in rows for at in range(1, len(row), 3)
            ]
        else:
            header = ['image']
            for rank in range(1, (args.top or 1) + 1):
                header += [f'class_{rank}', f'probability_{rank}']
            lines = rows
        write_whole(Path(args.out), table(lines, header))
        print(f'written: {args.out}')
    return rows


if __name__ == '__main__':
    run_tool(main)
