#!/usr/bin/env python
"""Picture of detections beside the ground truth: python tools/draw_detections.py CONFIG CHECKPOINT --out boxes.png."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser
from pathlib import Path

import mmcv
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope

from mmcds.cli.launch import PICTURES, add_common_arguments, check_data_root, load_config, output_file, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import plain
from mmcds.openmmlab.checkpoint import load_model, read_weights


def draw_boxes(axes: Axes, boxes: list, texts: list[str], colours: list[str]) -> None:
    """Draw boxes ``[x1, y1, x2, y2]`` in pixels, each with a line of text above it."""
    for (x1, y1, x2, y2), text, colour in zip(boxes, texts, colours, strict=True):
        # a pixel's centre has whole coordinates in matplotlib, its corner in COCO
        axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, color=colour))
        axes.text(x1, y1 - 1, plain(text), color=colour, fontsize=5, verticalalignment='bottom')


def main(argv: list[str] | None = None) -> None:
    """Draw one column per image: the ground truth above, the detections below."""
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint of a detector')
    parser.add_argument('-n', '--num-images', type=int, default=6, help='test images, evenly spread (default: 6)')
    parser.add_argument('--score', type=float, default=0.3, help='draw detections of at least this score (0.3)')
    parser.add_argument('--out', type=output_file(*PICTURES), default='detections.png', help='picture to write')
    args = parser.parse_args(argv)
    config = load_config(args)
    if config.get('default_scope') != 'mmdet':
        raise ConfigError(f'{args.config} describes a {config.model.type}, which is no detector and finds no boxes.')
    check_data_root(config, ('test_dataloader',))
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmdet')):
        dataset = DATASETS.build(config.test_dataloader.dataset)
        model = load_model(config, read_weights(args.checkpoint), args.checkpoint)
    if not 1 <= args.num_images <= len(dataset):
        raise ConfigError(
            f'-n is {args.num_images}, but the test set has {len(dataset)} images. Ask for 1 to so many.'
        )
    classes = dataset.metainfo['classes']
    figure = Figure(figsize=(1.6 * args.num_images, 3.6), layout='constrained')
    rows = figure.subplots(2, args.num_images, squeeze=False)
    count = 0
    for column in range(args.num_images):
        index = column * len(dataset) // args.num_images
        info = dataset.get_data_info(index)
        with torch.no_grad():
            found = model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances.cpu()
        found = found[found.scores >= args.score]
        truth, guess = rows[0, column], rows[1, column]
        for axes in (truth, guess):
            axes.imshow(mmcv.imread(info['img_path'], channel_order='rgb'))
            axes.axis('off')
        truth.set_title(plain(Path(info['img_path']).name), fontsize=6)
        draw_boxes(
            truth,
            [instance['bbox'] for instance in info['instances']],
            [classes[instance['bbox_label']] for instance in info['instances']],
            ['lime'] * len(info['instances']),
        )
        draw_boxes(
            guess,
            found.bboxes.tolist(),
            [f'{classes[label]} {score:.2f}' for label, score in zip(found.labels, found.scores, strict=True)],
            ['orange'] * len(found),
        )
        count += len(found)
    figure.suptitle(f'truth above, scores from {args.score:g} below', fontsize=7)
    figure.savefig(args.out, dpi=200)
    print(f'{args.out}: {args.num_images} images, {count} detections with a score of at least {args.score:g}')


if __name__ == '__main__':
    run_tool(main)
