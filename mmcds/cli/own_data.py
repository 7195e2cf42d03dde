"""A folder of images becomes a config: ``mmcds train --data FOLDER``.

1. Find the classes: FOLDER/CLASS/IMAGES, which is split, or FOLDER/train/CLASS and FOLDER/val/CLASS (or test, or
valid), which is not.
2. Split every class by a hash of the file names, a fifth for validation, and write both lists down.
3. Look at the sizes of the images, and choose the network's stem, the crop, the batch and the number of epochs.
4. Write all of it into a config that can be edited and run again.
"""

import hashlib
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from PIL import Image, UnidentifiedImageError

from mmcds.core.errors import ConfigError
from mmcds.data.listing import list_files
from mmcds.openmmlab.work_dir import check_work_dir, write_whole

ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
MODELS = ('resnet18', 'resnet50')
METHODS = {
    'plain': '',
    'dsn': "dsn=dict(type='DSNSupervision', taps=(0, 1, 2), loss_weight=1.0, trunk='sepconv')",
    'cds': """cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))""",
}
#: Share of every class that is kept for validation.
VALIDATION = 0.2


@dataclass(frozen=True)
class Part:
    """The images of a split.

    Attributes:
        root: Folder that the paths are relative to.
        images: Paths and class numbers.
    """

    root: Path
    images: tuple[tuple[str, int], ...]


def image_files(folder: Path) -> list[str]:
    """Return the images in a folder at any depth, relative to it."""
    names = [os.fsdecode(name) for name in list_files(os.fsencode(folder), [])]
    return [name for name in names if name.lower().endswith(ENDINGS)]


def class_folders(folder: Path) -> dict[str, list[str]]:
    """Return the images of every class folder, relative to ``folder``; folders without any are left out."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.name.startswith('.'):
            images = [f'{path.name}/{name}' for name in image_files(path)]
            if images:
                found[path.name] = images
    return found


def find_parts(folder: Path) -> tuple[tuple[str, ...], Part, Part]:
    """Find the classes of a folder, and its training and validation images.

    Raises:
        ConfigError: If there are fewer than two classes, a class with one image, or other classes in the validation.
    """
    if not folder.is_dir():
        raise ConfigError(f'--data {folder} is no folder. Name one with a folder of images for every class.')
    others = [folder / name for name in ('val', 'valid', 'validation', 'test') if (folder / name).is_dir()]
    given = (folder / 'train').is_dir() and bool(others)
    root, other = (folder / 'train', others[0]) if given else (folder, folder)
    classes = class_folders(root)
    if len(classes) < 2:
        raise ConfigError(
            f'--data {folder} holds {len(classes)} folder(s) with images that end with {", ".join(ENDINGS)}. Put the '
            'images of every class into a folder of its own, at least two; or make train/ and val/ with such folders.'
        )
    few = [name for name, images in classes.items() if len(images) < 2]
    if few:
        raise ConfigError(f'--data {folder}: class {few[0]} has one image. Give every class at least two.')
    names = tuple(classes)
    train, val = (classes, class_folders(other)) if given else split(classes)
    if tuple(val) != names:
        different = sorted(set(names) ^ set(val))
        raise ConfigError(
            f'--data {folder}: train/ and {other.name}/ differ in their classes, such as {", ".join(different[:3])}. '
            'Give both the same folders.'
        )

    def part(root: Path, found: dict[str, list[str]]) -> Part:
        return Part(root, tuple((image, names.index(name)) for name, images in found.items() for image in images))

    return names, part(root, train), part(other, val)


def split(classes: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split every class by a hash of the file names, so that new images change the place of no other one by much.

    Args:
        classes: Images by class.

    Returns:
        Training and validation images; each has at least one image of every class.
    """
    train, val = {}, {}
    for name, images in classes.items():
        order = sorted(images, key=lambda image: hashlib.sha256(image.encode('utf-8', 'surrogateescape')).digest())
        count = max(1, round(VALIDATION * len(order)))
        val[name], train[name] = sorted(order[:count]), sorted(order[count:])
    return train, val


def short_sides(part: Part, most: int = 200) -> list[int]:
    """Return the shorter sides of at most ``most`` images, in pixels, evenly spread.

    Raises:
        ConfigError: If an image cannot be read.
    """
    step = max(1, len(part.images) // most)
    sides = []
    for name, _ in part.images[::step]:
        try:
            with Image.open(part.root / name) as image:
                sides.append(min(image.size))
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(f'{part.root / name} cannot be read as an image. Repair it or take it away.') from error
    return sides


def crop_size(sides: Sequence[int]) -> int:
    """Return the side of the square that the network sees: 32, 64, 128 or 224 pixels."""
    return next((size for size in (32, 64, 128) if median(sides) <= 1.25 * size), 224)


def usual_epochs(images: int) -> int:
    """Return a number of epochs that suits a number of training images: few images need many."""
    return next(
        epochs for most, epochs in ((2_000, 200), (20_000, 100), (200_000, 60), (float('inf'), 90)) if images <= most
    )


def write_config(args: Namespace) -> str:
    """Write lists and config into the work dir, and say what was found.

    Args:
        args: ``data``, ``model``, ``method``, ``epochs`` and ``work_dir`` (which is set if it is None).

    Returns:
        The config file.

    Raises:
        ConfigError: If the folder does not fit, or if the work dir holds another config.
    """
    folder = Path(args.data).expanduser().resolve()
    names, train, val = find_parts(folder)
    size = crop_size(short_sides(train))
    short_sides(val)
    if args.work_dir is None:
        args.work_dir = f'work_dirs/own/{folder.name}-{args.method}-{args.model}'
    work_dir = Path(args.work_dir)
    check_work_dir(work_dir)
    epochs = usual_epochs(len(train.images)) if args.epochs is None else args.epochs
    if epochs < 1:
        raise ConfigError(f'--epochs is {epochs}. Give a whole number from 1 on.')
    batch = max(2, min(64, len(train.images) // 2))
    written = work_dir / 'config'  # MMEngine writes what it makes of a config into the work dir itself
    config = written / 'own.py'
    text = config_text(folder, names, train, val, args.method, args.model, size, batch, epochs, written.resolve())
    if config.is_file() and config.read_text(encoding='utf-8') != text:
        raise ConfigError(
            f'{config} exists and says something else. Train as it says by `mmcds train {config} --work-dir '
            f'{work_dir}`, or choose another --work-dir.'
        )
    written.mkdir(parents=True, exist_ok=True)
    for name, part in (('train', train), ('val', val)):
        write_whole(written / f'{name}.txt', ''.join(f'{image} {label}\n' for image, label in part.images))
    write_whole(config, text)
    print(
        f'{len(train.images)} training and {len(val.images)} validation images of {len(names)} classes, crops of '
        f'{size} pixels, {epochs} epochs of {len(train.images) // batch} steps. The config is {config}.'
    )
    return str(config)


def config_text(
    folder: Path,
    names: Sequence[str],
    train: Part,
    val: Part,
    method: str,
    model: str,
    size: int,
    batch: int,
    epochs: int,
    lists: Path,
) -> str:
    """Return the text of a config."""
    network = f'{model}_cifar' if size < 128 else model
    supervisions = f',\n    supervisions=dict({METHODS[method]})' if METHODS[method] else ''
    views = '[view_0, view_1]' if method == 'cds' else '[view_0]'
    return f'''"""{method.upper() if method != 'plain' else 'Plain training'}, {model}, on the images of {folder}.

Written by `mmcds train --data`; edit it and run it again: mmcds train THIS_FILE
"""

_base_ = ['mmcds::_base_/networks/{network}.py', 'mmcds::_base_/runtime.py']
classes = {list(names)!r}
size = {size}  # pixels of a side that the network sees
epochs = {epochs}

model = dict(
    head=dict(num_classes=len(classes)){supervisions})
data_preprocessor = dict(  # RGB, in grey levels
    num_classes=len(classes), mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

view_0 = [
    dict(type='RandomResizedCrop', scale=size),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
view_1 = [
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
train_dataloader = dict(
    batch_size={batch},
    num_workers={min(4, os.cpu_count() or 1)},
    drop_last=True,
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='QuickFolders', data_root='', data_prefix={str(train.root)!r}, ann_file={str(lists / 'train.txt')!r},
        classes=classes,
        pipeline=[
            dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views={views}),
            dict(type='PackSample')]))
val_dataloader = dict(
    batch_size=64,
    num_workers={min(2, os.cpu_count() or 1)},
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='QuickFolders', data_root='', data_prefix={str(val.root)!r}, ann_file={str(lists / 'val.txt')!r},
        classes=classes, test_mode=True,
        pipeline=[
            dict(type='LoadImage'), dict(type='ResizeEdge', scale=size * 8 // 7, edge='short'),
            dict(type='CenterCrop', crop_size=size), dict(type='PackSample')]))
val_evaluator = dict(type='Accuracy', topk={(1, 5) if len(names) > 5 else (1,)!r})
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr={0.1 * batch / 128:g}, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end={min(5, epochs)}, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=0, end=epochs, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size={batch})
'''
