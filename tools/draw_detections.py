#!/usr/bin/env python
"""Picture of detections beside the ground truth: python tools/draw_detections.py CONFIG CHECKPOINT --out boxes.png."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope

from mmcds.cli.launch import PICTURES, add_common_arguments, check_data_root, load_config, output_file, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import plain
from mmcds.openmmlab.checkpoint import load_model, read_weights
from mmcds.openmmlab.zoo import find

#: Colours of what is drawn; both are seen on dark and light images, and dark text is seen on both.
TRUTH, DETECTION = 'limegreen', 'orange'
#: Pairs of pictures beside each other.
PAIRS = 2
#: Pixels between the places that are tried for a label.
STEP = 4


def free_place(taken: np.ndarray, wanted: Sequence[float], size: Sequence[float], room: Bbox) -> np.ndarray | None:
    """Return where a label is in the room, overlaps no other and is as near as can be to where it is wanted.

    Args:
        taken: Left, bottom, right and top of the other labels. (K, 4).
        wanted: Left and bottom of the label. (2,).
        size: Its width and height. (2,).
        room: What it has to stay in; all lengths are pixels of the picture.

    Returns:
        Its left and bottom (2,); None if there is no such place among those of a grid.
    """
    last = room.max - size
    if (last < room.min).any():
        return None
    nearest = np.clip(wanted, room.min, last)
    grid, hits = [], []
    for axis in range(2):
        places = np.append(np.arange(room.min[axis], last[axis], STEP), nearest[axis])
        grid.append(places)
        hits.append((places[:, None] < taken[:, axis + 2]) & (places[:, None] + size[axis] > taken[:, axis]))
    free = hits[0].astype(np.float32) @ hits[1].T.astype(np.float32) == 0  # (columns, rows)
    if not free.any():
        return None
    distance = np.add.outer((grid[0] - nearest[0]) ** 2, (grid[1] - nearest[1]) ** 2)
    column, row = np.unravel_index(np.where(free, distance, np.inf).argmin(), free.shape)
    return np.array([grid[0][column], grid[1][row]])


def draw_boxes(axes: Axes, boxes: list, texts: list[str], colour: str) -> int:
    """Draw boxes ``[x1, y1, x2, y2]`` in pixels of the image, each with a label above it or as near as there is room.

    The layout of the figure must be final. A label that had to go away from its box hangs on a line.

    Returns:
        How many labels found no room and were left out.
    """
    figure, room, taken = axes.figure, axes.get_window_extent(), np.empty((0, 4))
    to_image = axes.transData.inverted()
    for (x1, y1, x2, y2), text in zip(boxes, texts, strict=True):
        # a pixel's centre has whole coordinates in matplotlib, its corner in COCO
        left, top, width, height = x1 - 0.5, y1 - 0.5, x2 - x1, y2 - y1
        axes.add_patch(Rectangle((left, top), width, height, fill=False, color=colour, linewidth=1.2))
        frame = dict(facecolor=colour, alpha=0.85, linewidth=0, pad=1)
        label = axes.text(left, top, plain(text), fontsize=6, verticalalignment='bottom', bbox=frame)
        label.set_in_layout(False)
        extent = label.get_window_extent().padded(1.5 * figure.dpi / 72)  # the frame around the text
        corner = axes.transData.transform((left, top))
        place = free_place(taken, corner, extent.size, room)
        if place is None:
            label.remove()
            continue
        taken = np.vstack([taken, [*place, *(place + extent.size)]])
        label.set_position(to_image.transform(label.get_transform().transform((left, top)) + place - extent.min))
        if np.hypot(*(place - corner)) > 1.5 * extent.height:
            ends = to_image.transform([place, corner])
            axes.plot(*ends.T, color=colour, linewidth=0.6, scalex=False, scaley=False)
    return len(boxes) - len(taken)


def main(argv: list[str] | None = None) -> None:
    """Draw every image twice: the ground truth on the left, the detections beside it."""
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
        model = load_model(config, read_weights(find(args.checkpoint)), args.checkpoint)
    if not 1 <= args.num_images <= len(dataset):
        raise ConfigError(
            f'-n is {args.num_images}, but the test set has {len(dataset)} images. Ask for 1 to so many.'
        )
    classes = dataset.metainfo['classes']
    pairs = min(PAIRS, args.num_images)
    rows = -(-args.num_images // pairs)
    figure = Figure(figsize=(5.6 * pairs, 3 * rows + 0.5), layout='constrained', dpi=200)
    panels = figure.subplots(rows, 2 * pairs, squeeze=False).reshape(-1, 2)[: args.num_images]
    found = []
    for number, (truth, guess) in enumerate(panels):
        index = number * len(dataset) // args.num_images
        info = dataset.get_data_info(index)
        with torch.no_grad():
            instances = model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances.cpu()
        found.append((info['instances'], instances[instances.scores >= args.score]))
        for axes in (truth, guess):
            axes.imshow(mmcv.imread(info['img_path'], channel_order='rgb'))
        truth.set_title(plain(Path(info['img_path']).name), fontsize=7)
        guess.set_title(f'{len(found[-1][1])} detections', fontsize=7)
    for axes in figure.axes:
        axes.axis('off')
    colours = {'ground truth (left)': TRUTH, f'detection with its score, at least {args.score:g} (right)': DETECTION}
    handles = [Rectangle((0, 0), 1, 1, fill=False, color=colour, label=text) for text, colour in colours.items()]
    figure.legend(handles=handles, loc='outside upper center', ncols=2, fontsize=8)
    figure.draw_without_rendering()  # from here on every panel has its place
    figure.set_layout_engine('none')
    for (truth, guess), (instances, detections) in zip(panels, found, strict=True):
        texts = [classes[instance['bbox_label']] for instance in instances]
        left_out = draw_boxes(truth, [instance['bbox'] for instance in instances], texts, TRUTH)
        texts = [
            f'{classes[label]} {score:.2f}' for label, score in zip(detections.labels, detections.scores, strict=True)
        ]
        left_out += draw_boxes(guess, detections.bboxes.tolist(), texts, DETECTION)
        if left_out:
            guess.set_title(f'{guess.get_title()}; no room for {left_out} labels', fontsize=7)
    figure.savefig(args.out, dpi=figure.dpi)
    count = sum(len(detections) for _, detections in found)
    print(f'{args.out}: {args.num_images} images, {count} detections with a score of at least {args.score:g}')


if __name__ == '__main__':
    run_tool(main)
