#!/usr/bin/env python
"""What a new user meets: every journey by the commands of the documentation, with its seconds and how it ended.

    python benchmarks/journeys.py                    # all of them, under five minutes on two quiet cores
    python benchmarks/journeys.py help predict       # some of them

Each command runs in a process of its own, in a folder that is empty but for the user's images, which are drawn from
the embedded ones. A command has to end with the status that it should have, and to say what it should say.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mmcds.data import EmbeddedFashionMNIST

RESULTS = Path(__file__).parent / 'results'
README = Path(__file__).parents[1] / 'README.md'
CONFIG, NETWORK = 'mmcds::cds/resnet18w16_fashion.py', 'cds_resnet18w16_fashion'
DETECTOR = 'detection_faster-rcnn_resnet18w16_scenes-cds'
CLASSES = ('Bag', 'Trouser')
#: Images of every class.
COUNT = 20
#: Seconds after which a command counts as hanging.
PATIENCE = 300
#: A list of images, as in docs/own_data.md.
LISTED = f"""
_base_ = 'mmcds::cds/resnet50_in1k.py'
classes = {list(CLASSES)}
model = dict(head=dict(num_classes=len(classes)))
data_preprocessor = dict(num_classes=len(classes))
own = dict(_delete_=True, type='QuickFolders', data_root='listed', data_prefix='images', classes=classes)
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(
    ann_file='train.txt', pipeline={{{{_base_.train_pipeline}}}}, **own))
val_dataloader = dict(num_workers=1, dataset=dict(
    ann_file='val.txt', test_mode=True, pipeline={{{{_base_.test_pipeline}}}}, **own))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""
#: Boxes in COCO's format, of a size that a CPU trains on in seconds.
BOXES = """
_base_ = 'mmcds::detection/faster-rcnn_resnet18w16_scenes-random.py'
train_dataloader = dict(batch_size=4, dataset=dict(data_root='boxes'))
val_dataloader = dict(dataset=dict(data_root='boxes'))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='boxes/annotations/test.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1)
"""
#: What README's lines leave to the reader.
BEFORE = 'import timm, torch\nviews, labels = torch.rand(2, 8, 3, 64, 64), torch.arange(8)\n'
AFTER = "\nprint('loss', losses.total.item())\n"
INFERENCER = f"""
import mmcds
from mmpretrain import ImageClassificationInferencer
print(ImageClassificationInferencer('{NETWORK}', pretrained=True)('photos/Bag/00.png')[0]['pred_class'])
"""


@dataclass(frozen=True)
class Step:
    """A command of a journey.

    Attributes:
        command: What a user types.
        says: A pattern that its output has to hold.
        status: The one that it has to end with.
    """

    command: str
    says: str = ''
    status: int = 0


def _images() -> list[tuple[str, int, np.ndarray]]:
    """Return name of the class, number and pixels (28, 28, 1) of the user's images."""
    images, counts, found = EmbeddedFashionMNIST('test'), dict.fromkeys(CLASSES, 0), []
    for index in range(len(images)):
        info = images.get_data_info(index)
        name = images.metainfo['classes'][info['gt_label']]
        if counts.get(name, COUNT) < COUNT:
            found.append((name, counts[name], info['img']))
            counts[name] += 1
    return found


def write_photos(folder: Path) -> None:
    """Write ``photos/CLASS/NN.png``."""
    for name, number, pixels in _images():
        file = folder / f'photos/{name}/{number:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), pixels)


def write_split(folder: Path) -> None:
    """Write ``split/train/CLASS`` and ``split/val/CLASS``."""
    write_photos(folder)
    for file in sorted((folder / 'photos').glob('*/*.png')):
        part = 'val' if int(file.stem) % 5 == 0 else 'train'
        copy = folder / 'split' / part / file.parent.name / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)


def write_listed(folder: Path) -> None:
    """Write ``listed/images``, its lists of eight and of two images, and a config."""
    write_photos(folder)
    (folder / 'photos').rename(folder / 'images')
    (folder / 'listed').mkdir()
    (folder / 'images').rename(folder / 'listed/images')
    for name, numbers in (('train', range(4)), ('val', (4,))):
        lines = [f'{each}/{number:02}.png {label}\n' for label, each in enumerate(CLASSES) for number in numbers]
        (folder / f'listed/{name}.txt').write_text(''.join(lines))
    (folder / 'listed.py').write_text(LISTED)


def write_scripts(folder: Path) -> None:
    """Write the first lines of README as a script, and those of the inferencer."""
    write_photos(folder)
    found = re.search(r'```python\n(.*?)```', README.read_text(), re.S)
    assert found, f'{README} has no lines in Python'
    (folder / 'first.py').write_text(BEFORE + found[1] + AFTER)
    (folder / 'inferencer.py').write_text(INFERENCER)


def write_boxes(folder: Path) -> None:
    """Write a config for scenes in ``boxes``."""
    (folder / 'boxes.py').write_text(BOXES)


_RUN = 'work_dirs/own/photos-cds-resnet18'
#: What is prepared for a journey, and its commands.
JOURNEYS: dict[str, tuple[Callable[[Path], None] | None, list[Step]]] = {
    'help': (None, [Step('mmcds --help', 'train on a folder'), Step('mmcds trian', 'Did you mean train', 2)]),
    'doctor': (None, [Step('mmcds doctor', 'torch')]),
    'plain PyTorch': (write_scripts, [Step('python first.py', r'loss \d')]),
    'refused': (
        None,
        [
            Step(f'mmcds train {CONFIG} --cfg-options model.backbone.dept=50', 'mmcds: error: .*dept', 1),
            Step('mmcds train --data nowhere', 'mmcds: error: .*nowhere is no folder', 1),
            Step('mmcds predict epoch_9.pth photos', 'mmcds: error: .*photos is neither', 1),
        ],
    ),
    'predict': (write_photos, [Step(f'mmcds predict {NETWORK} photos/Bag/00.png', r'Bag \d+')]),
    'inferencer': (write_scripts, [Step('python inferencer.py', 'Bag')]),
    'test': (None, [Step(f'mmcds test {CONFIG} {NETWORK}', 'accuracy/top1 [89]')]),
    'views': (None, [Step(f'mmcds views {CONFIG} --out views.png', '2 view')]),
    'export': (
        None,
        [
            Step(f'mmcds export {NETWORK} model.onnx', '10 classes'),
            Step(f'mmcds export {NETWORK} hub_folder', 'Hugging Face'),
        ],
    ),
    'own folder': (
        write_photos,
        [
            Step('mmcds data photos', 'all files open'),
            Step('mmcds train --data photos --epochs 2', 'Finished'),
            Step(f'mmcds test {_RUN}/config/own.py {_RUN}/epoch_2.pth', 'accuracy/top1'),
            Step(f'mmcds predict {_RUN}/epoch_2.pth photos --out out.csv', 'written: out.csv'),
            Step(f'mmcds export-backbone {_RUN}/epoch_2.pth backbone.pth', 'ResNet_CIFAR'),
        ],
    ),
    'own split': (
        write_split,
        [
            Step('mmcds data split', 'all files open'),
            Step('mmcds train --data split --method plain --epochs 2', 'Finished'),
        ],
    ),
    'own list': (
        write_listed,
        [Step('mmcds data listed.py', 'all files open'), Step('mmcds train listed.py', 'Finished')],
    ),
    'own boxes': (
        write_boxes,
        [
            Step('mmcds scenes --out boxes --train 24 --test 24', '24 scenes written'),
            Step('mmcds data boxes.py', 'all files open'),
            Step('mmcds train boxes.py', 'Finished'),
            Step(f'mmcds predict {DETECTOR} boxes/test/000000.png', r'\d+ %'),
        ],
    ),
}


def take(step: Step, folder: Path) -> dict[str, Any]:
    """Run a command in a folder.

    Returns:
        The command, its seconds and its status, whether both are as they should be, and the end of what it said.
    """
    program, *arguments = shlex.split(step.command)
    before = [sys.executable, '-m', 'mmcds.command'] if program == 'mmcds' else [sys.executable]
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [*before, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        status, said = None, f'nothing for {PATIENCE} s'
    right = status == step.status and re.search(step.says, said) is not None
    return dict(
        command=step.command,
        seconds=round(time.perf_counter() - begin, 2),
        status=status,
        right=right,
        end=said.splitlines()[-5:],
    )


def main() -> int:
    """Go, print and write; return how many commands ended otherwise than they should."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        'journeys', nargs='*', metavar='JOURNEY', help=f'{", ".join(JOURNEYS)}; as it stands here (default: all)'
    )
    parser.add_argument('--out', type=Path, default=RESULTS / 'journeys.json', help='file to write')
    args = parser.parse_args()
    unknown = [name for name in args.journeys if name not in JOURNEYS]
    if unknown:
        parser.error(f'there is no journey {unknown[0]!r}; there are {", ".join(JOURNEYS)}')
    rows = []
    print(f'{"journey":14} {"seconds":>7} {"status":>6}  command')
    for name in args.journeys or JOURNEYS:
        prepare, steps = JOURNEYS[name]
        with tempfile.TemporaryDirectory() as folder:
            if prepare:
                prepare(Path(folder))
            for step in steps:
                row = dict(journey=name, **take(step, Path(folder)))
                print(f'{name:14} {row["seconds"]:7.1f} {row["status"]!s:>6}  {row["command"]}', flush=True)
                if not row['right']:
                    print('\n'.join(['    NOT AS IT SHOULD BE:', *(f'    {line}' for line in row['end'])]))
                rows.append(row)
    wrong = sum(not row['right'] for row in rows)
    print(f'{len(rows)} commands, {sum(row["seconds"] for row in rows):.0f} s, {wrong} not as they should be')
    machine = dict(cores=os.cpu_count(), torch=torch.__version__, processor=platform.processor())
    args.out.write_text(json.dumps(dict(machine=machine, commands=rows), indent=1) + '\n')
    print(f'written: {args.out}')
    return min(wrong, 100)


if __name__ == '__main__':
    sys.exit(main())
