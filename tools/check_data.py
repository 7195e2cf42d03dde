#!/usr/bin/env python
"""Check a data set before training on it.

python tools/check_data.py NAME --data-root FOLDER  one of the sets below, whose layout and numbers are known
python tools/check_data.py FOLDER                   class folders of images of your own, as for tools/train.py --data
python tools/check_data.py CONFIG                   what the loaders of a config read

Says what is there (images per split and class), and which files are missing or cannot be read. The exit status is 1 if
anything is wrong, so that a training can follow by &&.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import copy
import difflib
import json
import os
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mmcds.cli.launch import positive, read_config, run_tool
from mmcds.cli.own_data import find_parts
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.runner import build_dataset, inner_dataset
from mmcds.resources import resources


@dataclass(frozen=True)
class Known:
    """A data set that configs name.

    Attributes:
        title: Its name.
        layout: What its folder holds, line by line.
        images: How many images the official training and test split have.
    """

    title: str
    layout: str
    images: tuple[int, int]


KNOWN = {
    'fashion': Known('Fashion-MNIST, embedded', '{train,t10k}-{images-idx3,labels-idx1}-ubyte', (5000, 2000)),
    'cifar10': Known('CIFAR-10', 'cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}', (50000, 10000)),
    'cifar100': Known('CIFAR-100', 'cifar-100-python/{train,test,meta}', (50000, 10000)),
    'in1k': Known('ImageNet-1k', 'train/nXXXXXXXX/*.JPEG\nval/nXXXXXXXX/*.JPEG', (1281167, 50000)),
    'coco': Known(
        'COCO 2017', 'annotations/instances_{train,val}2017.json\n{train,val}2017/XXXXXXXXXXXX.jpg', (118287, 5000)
    ),
    'cub200': Known(
        'CUB-200-2011',
        'images/NNN.Name/*.jpg\nimages.txt\nimage_class_labels.txt\ntrain_test_split.txt',
        (5994, 5794),
    ),
    'cars': Known(
        'Stanford Cars',
        'car_ims/NNNNNN.jpg\ncars_annos.mat\n'
        'or\ncars_{train,test}/NNNNN.jpg\ndevkit/{cars_train_annos,cars_test_annos_withlabels}.mat',
        (8144, 8041),
    ),
    'flowers': Known('Oxford Flowers 102', 'jpg/image_NNNNN.jpg\nimagelabels.mat\nsetid.mat', (2040, 6149)),
    'dogs': Known('Stanford Dogs', 'Images/nXXXXXXXX-Name/*.jpg\n{train,test}_list.mat', (12000, 8580)),
    'aircraft': Known(
        'FGVC Aircraft', 'data/images/NNNNNNN.jpg\ndata/images_variant_{trainval,test}.txt', (6667, 3333)
    ),
}
CHUNK = 4096


@dataclass(frozen=True)
class Split:
    """What a split of a data set lists.

    Attributes:
        name: As the data set calls it.
        images: Number of images.
        files: Their paths; none if all images lie in one file, which has been read then.
        labels: Classes from 0, of every image or, in COCO, of every box; -1 where there is none.
        classes: How many there should be.
    """

    name: str
    images: int
    files: list[str]
    labels: list[int]
    classes: int


def read_splits(name: str) -> tuple[Path, list[Split], list[str]]:
    """The folder of a data set, its splits, and what could not be loaded."""
    splits, faults = [], []
    if name == 'coco':
        root = Path(os.environ.get('MMCDS_DATA_ROOT') or 'data') / 'coco'
        for split in ('train2017', 'val2017'):
            try:
                splits.append(read_coco(root, split))
            except (OSError, ValueError, LookupError) as error:
                faults.append(f'{split} cannot be loaded: {type(error).__name__}: {error}')
        return root, splits, faults
    config = Config.fromfile(resources() / f'configs/_base_/datasets/{name}.py')
    root = Path(config.get('data_root') or resources() / 'mmcds/data/fashion_mnist')
    for loader in ('train_dataloader', 'test_dataloader'):
        settings = config[loader].dataset
        try:
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                splits.append(read_split(settings['split'], settings, config.num_classes))
        except ConfigError as error:
            faults.append(f'{settings["split"]} cannot be loaded: {error.__cause__ or error}')
    return root, splits, faults


def read_split(name: str, settings: dict, classes: int | None = None) -> Split:
    """List a data set that a config describes; nothing is downloaded.

    Args:
        name: Of the split.
        settings: The data set's config.
        classes: How many there should be; by default as many as the data set names.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    settings = copy.deepcopy(dict(settings))
    inner = inner_dataset(settings)
    inner['pipeline'] = []
    if 'download' in inner:
        inner['download'] = False
    dataset = build_dataset(settings)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    files = [info['img_path'] for info in infos if 'img_path' in info]
    labels = []
    for info in infos:
        boxes = [box['bbox_label'] for box in info.get('instances', ())]
        labels += boxes if 'instances' in info else [int(info.get('gt_label', -1))]
    named = len(dataset.metainfo.get('classes') or ()) or max(labels, default=0) + 1
    return Split(name, len(infos), list(dict.fromkeys(files)), labels, classes or named)


def read_config_splits(name: str) -> tuple[list[Split], list[str]]:
    """What the loaders of a config read, and what could not be loaded."""
    config, splits, faults = read_config(name), [], []
    seen: list[dict] = []
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        for part in ('train', 'val', 'test'):
            loader = config.get(f'{part}_dataloader')
            if not loader or loader.dataset in seen:  # the test is often the validation
                continue
            seen.append(loader.dataset)
            head = config.model.get('head') or {}
            try:
                splits.append(read_split(part, loader.dataset, head.get('num_classes')))
            except ConfigError as error:
                faults.append(f'{part}_dataloader: {error}')
    return splits, faults


def read_folder(folder: Path) -> list[Split]:
    """Class folders of images, split as ``tools/train.py --data`` splits them.

    Raises:
        ConfigError: If there are no such folders.
    """
    names, *parts = find_parts(folder)
    return [
        Split(
            title,
            len(part.images),
            [str(part.root / image) for image, _ in part.images],
            [label for _, label in part.images],
            len(names),
        )
        for title, part in zip(('train', 'val'), parts, strict=True)
    ]


def read_coco(root: Path, split: str) -> Split:
    """Images and boxes of COCO's annotation file."""
    content = json.loads((root / f'annotations/instances_{split}.json').read_bytes())
    numbers = {category['id']: place for place, category in enumerate(content['categories'])}
    files = [str(root / split / image['file_name']) for image in content['images']]
    labels = [numbers[box['category_id']] for box in content['annotations']]
    return Split(split, len(files), files, labels, 80)


def file_fault(path: str, quick: bool) -> str:
    """Why a file is no image that could be loaded; empty if it is one, as far as its header tells."""
    try:
        if quick:
            return '' if Path(path).is_file() else f'missing: {path}'
        with Image.open(path):
            return ''
    except FileNotFoundError:
        return f'missing: {path}'
    except OSError as error:
        return f'unreadable: {path} ({type(error).__name__})'


def file_faults(files: Sequence[str], quick: bool, console: Console) -> list[str]:
    """Look at every file, many at a time, since a network drive answers slowly."""
    faults: list[str] = []
    with ThreadPoolExecutor(16) as pool:
        for start in track(range(0, len(files), CHUNK), 'files', console=console, disable=not console.is_terminal):
            chunk = files[start : start + CHUNK]
            faults += filter(None, pool.map(lambda path: file_fault(path, quick), chunk))
    return faults


def label_faults(split: Split, official: int | None, subset: bool) -> list[str]:
    """What is wrong with the numbers of a split; ``official`` is None for a set of one's own."""
    lowest = -1 if official is None else 0  # unlabelled images are no fault of a set of one's own
    wrong = sorted({label for label in split.labels if not lowest <= label < split.classes})
    faults = [f'{split.name}: labels {wrong[:5]} are not among the {split.classes} classes'] if wrong else []
    if not split.images:
        faults.append(f'{split.name}: no image')
    if subset:
        return faults
    if official is not None and split.images != official:
        faults.append(f'{split.name}: {split.images:,} images, but the official set has {official:,}')
    empty = sorted(set(range(split.classes)) - set(split.labels))
    if empty:
        faults.append(f'{split.name}: {len(empty)} of {split.classes} classes are empty, such as {empty[:5]}')
    return faults


def read(name: str, console: Console) -> tuple[list[Split], list[str], dict[str, int]]:
    """Splits of what is asked for, what could not be loaded, and the official numbers of images, if there are any.

    Raises:
        ConfigError: If it is neither a known set nor a folder nor a config.
    """
    if name in KNOWN:
        known = KNOWN[name]
        root, splits, faults = read_splits(name)
        console.print(f'{known.title}, expected in {root}:')
        for line in known.layout.splitlines():
            console.print(f'    {line}')
        return splits, faults, dict(zip(('train', 'test'), known.images, strict=True))
    if Path(name).is_dir():
        console.print(f'{name}: class folders of images')
        return read_folder(Path(name)), [], {}
    if name.endswith('.py') or '::' in name:
        return *read_config_splits(name), {}
    near = difflib.get_close_matches(name, KNOWN, 1)
    raise ConfigError(
        f'{name} is no folder, no config and no known data set. '
        + (f'Did you mean {near[0]}?' if near else f'The known ones are {", ".join(KNOWN)}.')
    )


def main(argv: list[str] | None = None) -> None:
    """Print the report."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('name', help=f'a folder, a config, or one of {", ".join(KNOWN)}', metavar='WHAT')
    parser.add_argument('--data-root', help='folder that holds the data sets (default: $MMCDS_DATA_ROOT or data)')
    parser.add_argument('--quick', action='store_true', help='only look whether the files exist, open none')
    parser.add_argument('--subset', action='store_true', help='the set may be smaller than the official one')
    parser.add_argument('--show', type=positive, default=20, metavar='N', help='files to name at most (default: 20)')
    args = parser.parse_args(argv)
    if args.data_root is not None:
        os.environ['MMCDS_DATA_ROOT'] = args.data_root
    console = Console(highlight=False, markup=False, soft_wrap=True)
    splits, faults, official = read(args.name, console)
    table = Table('split', 'images', 'official', 'classes', 'smallest class', 'median', 'largest')
    bad: list[str] = []
    for split in splits:
        expected = official.get('train' if split.name.startswith('train') else 'test')
        sizes = sorted(Counter(label for label in split.labels if label >= 0).values()) or [0]
        numbers = (split.images, expected, len(sizes), sizes[0], sizes[len(sizes) // 2], sizes[-1])
        table.add_row(split.name, *('' if number is None else f'{number:,}' for number in numbers))
        faults += label_faults(split, expected, args.subset)
        bad += file_faults(split.files, args.quick, console)
    if splits:
        console.print(table)
    if bad:
        faults.append(f'missing or unreadable files: {len(bad):,}')
        faults += [f'    {fault}' for fault in bad[: args.show]]
        if len(bad) > args.show:
            faults.append(f'    ... and {len(bad) - args.show:,} more; --show N names more of them')
    for fault in faults:
        console.print(fault)
    if faults:
        raise SystemExit(1)
    in_files = any(split.files for split in splits)
    looked = f'all files {"exist" if args.quick else "open as images"}' if in_files else 'all images were read'
    console.print(f'ok: {looked}')


if __name__ == '__main__':
    run_tool(main)
