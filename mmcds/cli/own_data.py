"""A folder of images becomes a config: ``mmcds train --data FOLDER``.

1. Find the classes: FOLDER/CLASS/IMAGES, which is split, or FOLDER/train/CLASS and FOLDER/val/CLASS (by any of
their names), which is not; and the images without labels, which may be added.
2. Split every class by a hash of the file names, about a fifth for validation, and write all lists down.
3. Look at the sizes of the images, and choose the network's stem, the crop, the batch and the number of epochs.
4. Find the stages to supervise: known for the networks of MMPretrain below, asked of timm for its own.
5. Write all of it into a config that can be edited and run again.
"""

import hashlib
import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from mmcds.core.errors import ConfigError, did_you_mean
from mmcds.data.listing import list_files
from mmcds.networks.timm_stages import classified_width, timm_stages, usual_taps
from mmcds.openmmlab.work_dir import POINTER, check_work_dir, checkpoints, put_in_place, write_whole
from mmcds.openmmlab.zoo import find

ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
METHODS = ('plain', 'dsn', 'cds')
#: What is taken where the command line names none.
METHOD, MODEL = 'cds', 'resnet18'
#: Names of the folder of training images, and of the one to validate on, in any case; an earlier one goes first.
TRAIN_NAMES = ('train', 'training')
OTHER_NAMES = ('val', 'valid', 'validation', 'dev', 'eval', 'evaluation', 'test', 'testing')
#: Chance of every image to be kept for validation.
VALIDATION = 0.2
#: Smallest crop of a network that has no form for small images: its stages divide the side by 32.
LEAST = 128
SGD = "dict(optimizer=dict(type='SGD', lr={:g}, momentum=0.9, weight_decay=5e-4))"
ADAMW = """dict(
    optimizer=dict(type='AdamW', lr={:g}, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0))"""


@dataclass(frozen=True)
class Network:
    """What a config has to know of a network.

    Attributes:
        base: Its file in ``configs/_base_/networks``, or None if it is one of timm.
        small: The file of its form for small images, if there is one.
        side: Pixels of a side, if it takes no others.
        taps: Stages that CDS supervises; DSN leaves out a fourth.
        head: Form of the projection heads.
        optimizer: Text, with a place for the learning rate.
        rate: The learning rate for each image of a batch.
        backbone: Texts of the backbone's settings by name.
        width: Channels of what is classified, where the base does not say it.
        mean: Of the images' channels, in grey levels.
        std: The same.
    """

    base: str | None
    taps: tuple[int | str, ...]
    small: str | None = None
    side: int | None = None
    head: str = 'mlp'
    optimizer: str = ADAMW
    rate: float = 5e-4 / 512
    backbone: dict[str, str] = field(default_factory=dict)
    width: int | None = None
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


RESNET: dict[str, Any] = dict(taps=(0, 1, 2, 3), head='sepconv', optimizer=SGD, rate=0.1 / 128)
MODELS = {
    'resnet18': Network('resnet18', small='resnet18_cifar', **RESNET),
    'resnet50': Network('resnet50', small='resnet50_cifar', **RESNET),
    'convnext-tiny': Network('convnext_tiny', ('stages.0', 'stages.1', 'stages.2')),
    'swin-tiny': Network('swin_tiny', ('stages.0.blocks.1', 'stages.1.blocks.1', 'stages.2.blocks.5'), side=224),
    'vit-base': Network('vit_base', ('layers.2', 'layers.5', 'layers.8'), side=224),
}


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
        ConfigError: If there are fewer than two classes, a class with one image, other classes in the validation,
            or splits whose names are unknown.
    """
    if not folder.is_dir():
        raise ConfigError(f'--data {folder} is no folder. Name one with a folder of images for every class.')
    root, other = given_split(folder) or (folder, folder)
    given = root != folder
    classes = class_folders(root)
    if len(classes) < 2:
        raise ConfigError(
            f'--data {folder} holds {len(classes)} folder(s) with images that end with {", ".join(ENDINGS)}. Put the '
            'images of every class into a folder of its own, at least two; or make train/ and val/ with such folders.'
        )
    if not given:
        check_are_classes(folder, classes)
    few = [name for name, images in classes.items() if len(images) < 2]
    if few:
        raise ConfigError(f'--data {folder}: class {few[0]} has one image. Give every class at least two.')
    names = tuple(classes)
    train, val = (classes, class_folders(other)) if given else split(classes)
    if tuple(val) != names:
        different = sorted(set(names) ^ set(val))
        raise ConfigError(
            f'--data {folder}: {root.name}/ and {other.name}/ differ in their classes, such as '
            f'{", ".join(different[:3])}. Give both the same folders.'
        )

    def part(root: Path, found: dict[str, list[str]]) -> Part:
        return Part(root, tuple((image, names.index(name)) for name, images in found.items() for image in images))

    return names, part(root, train), part(other, val)


def given_split(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of training images and of those to validate on, if there are both."""
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    train, other = (
        next((folders[name] for name in names if name in folders), None) for names in (TRAIN_NAMES, OTHER_NAMES)
    )
    return (train, other) if train and other else None


def check_are_classes(folder: Path, classes: dict[str, list[str]]) -> None:
    """Refuse folders that are splits by their look, and not classes: each holds the same folders and no image.

    Raises:
        ConfigError: If they do.
    """
    inner = {
        frozenset(image.split('/')[1] if image.count('/') > 1 else '' for image in images)
        for images in classes.values()
    }
    names = sorted(inner.pop())
    if not inner and '' not in names and len(names) > 1:
        raise ConfigError(
            f'--data {folder}: its folders {", ".join(list(classes)[:3])} hold no images but the same '
            f'folders, such as {", ".join(names[:3])}, as splits do. Rename them to train and val; or if they are '
            'the classes, move their images up, out of the inner folders.'
        )


def place(image: str) -> float:
    """Return a number from 0 to 1 that depends on the name of an image alone."""
    return int.from_bytes(hashlib.sha256(image.encode('utf-8', 'surrogateescape')).digest()[:8], 'big') / 2**64


def split(classes: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split every class by a hash of the file names, so that other images do not change the place of one.

    Where this would leave no image of a class on a side, the image that is nearest to the border goes there.

    Args:
        classes: Images by class, at least two of each.

    Returns:
        Training and validation images; each has at least one image of every class.
    """
    train, val = {}, {}
    for name, images in classes.items():
        order = sorted(images, key=place)
        count = sum(place(image) < VALIDATION for image in order)
        count = min(max(1, count), len(order) - 1)
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


def find_unlabelled(folder: Path, parts: Sequence[Part]) -> Part:
    """Find images without labels.

    Raises:
        ConfigError: If there are none, or if the labelled images are in this folder or it is among their classes.
    """
    if not folder.is_dir():
        raise ConfigError(f'--unlabelled {folder} is no folder. Name one with images.')
    for part in parts:
        if folder.is_relative_to(part.root):
            raise ConfigError(
                f'--unlabelled {folder} lies in {part.root}, where every folder is a class. Put it elsewhere.'
            )
        if part.root.is_relative_to(folder):
            raise ConfigError(
                f'--unlabelled {folder} contains the labelled images of {part.root}. Name another folder.'
            )
    images = image_files(folder)
    if not images:
        raise ConfigError(f'--unlabelled {folder} holds no image ({", ".join(ENDINGS)}). Put some there.')
    return Part(folder, tuple((image, -1) for image in images))


def find_network(name: str) -> Network:
    """Return what a config has to know of the network of a name; ``timm/NAME`` is one of timm.

    Raises:
        ConfigError: If there is none.
    """
    library, _, timm_name = name.rpartition('/')
    if library == 'timm':
        return timm_network(timm_name)
    if name not in MODELS:
        hint = did_you_mean(name, MODELS, f'There are {", ".join(MODELS)}, and timm/NAME for all of timm.')
        raise ConfigError(f'--model {name} is unknown. {hint}')
    return MODELS[name]


def timm_network(name: str) -> Network:
    """Return what timm says of a network: stages, normalisation, and the side if it is fixed.

    Networks with BatchNorm get the official convolutional heads and are trained by SGD, others, which have LayerNorm
    mostly, get light heads and AdamW.
    """
    with torch.device('meta'):
        network: Any = timm_stages(name)
    facts = network.pretrained_cfg
    smooth = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return Network(
        base=None,
        taps=usual_taps([stage['reduction'] for stage in network.feature_info]),
        side=facts['input_size'][-1] if facts.get('fixed_input_size') else None,
        backbone=dict(type="'TimmStages'", model_name=repr(name)),
        head='sepconv' if smooth else 'mlp',
        width=classified_width(network),
        mean=tuple(round(255 * value, 3) for value in facts['mean']),
        std=tuple(round(255 * value, 3) for value in facts['std']),
        optimizer=SGD if smooth else ADAMW,
        rate=0.1 / 128 if smooth else 5e-4 / 512,
    )


def find_weights(model: str, pretrained: str | bool, own: Path) -> tuple[Path, dict[str, Tensor] | None]:
    """Find the weights to start from.

    Args:
        model: Name of the network.
        pretrained: A checkpoint, or True for timm's weights, which are downloaded.
        own: File for weights that are in none that MMEngine reads.

    Returns:
        The file to read, and what is to be written into it, if that is ``own``.

    Raises:
        ConfigError: If there are none.
    """
    if pretrained is True:
        if not model.startswith('timm/'):
            raise ConfigError(f'--pretrained: {model} has no weights of its own. Name a file: --pretrained FILE.')
        import timm

        try:
            network = timm.create_model(model.removeprefix('timm/'), pretrained=True, num_classes=0)
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f'--pretrained: timm cannot load the weights of {model} ({error}). Name a file: --pretrained FILE.'
            ) from error
        return own.resolve(), network.state_dict()
    file = Path(find(str(pretrained))).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f'--pretrained {pretrained} does not exist. Name a checkpoint.')
    if file.suffix != '.safetensors':
        return file, None
    from safetensors.torch import load_file

    return own.resolve(), load_file(file)


@dataclass(frozen=True)
class Plan:
    """What a config is written from.

    Attributes:
        folder: Of the images.
        classes: Names of the classes.
        train: Training images.
        val: Validation images.
        unlabelled: Images without labels.
        method: How it is trained.
        model: Name of the network.
        network: What is known of it.
        weights: File to start from, if any.
        pretrained: How it was asked for.
        size: Pixels of a side of the crops.
        batch: Labelled images of a step.
        beside: Unlabelled images of a step.
        epochs: Passes over all images.
        lists: Folder of the lists of images.
    """

    folder: Path
    classes: tuple[str, ...]
    train: Part
    val: Part
    unlabelled: Part | None
    method: str
    model: str
    network: Network
    weights: Path | None
    pretrained: str | bool
    size: int
    batch: int
    beside: int
    epochs: int
    lists: Path


def write_config(args: Namespace) -> str:
    """Write lists and config into the work dir, and say what was found.

    Args:
        args: ``data``, ``unlabelled``, ``model``, ``pretrained``, ``method``, ``epochs``, ``overwrite`` and
            ``work_dir``, which is set if it is None.

    Returns:
        The config file.

    Raises:
        ConfigError: If the folders do not fit, if there is no such network, or if the work dir holds something else.
            Nothing is written then.
    """
    model = MODEL if args.model is None else args.model
    method = METHOD if args.method is None else args.method
    folder = Path(args.data).expanduser().resolve()
    names, train, val = find_parts(folder)
    unlabelled = None
    if args.unlabelled is not None:
        if method != 'cds':
            raise ConfigError(
                f'--unlabelled: the method {method} has no use for images without labels. Leave them out, or '
                'give --method cds.'
            )
        unlabelled = find_unlabelled(Path(args.unlabelled).expanduser().resolve(), (train, val))
    network = find_network(model)
    size = crop_size(short_sides(train))
    if network.small is None:
        size = network.side or max(LEAST, size)
    for part in (val, unlabelled):
        if part is not None:
            short_sides(part)
    if args.work_dir is None:
        args.work_dir = f'work_dirs/own/{folder.name}-{method}-{model.replace("/", "-")}'
    work_dir = Path(args.work_dir)
    images = len(train.images) + (len(unlabelled.images) if unlabelled else 0)
    epochs = usual_epochs(images) if args.epochs is None else args.epochs
    if epochs < 1:
        raise ConfigError(f'--epochs is {epochs}. Give a whole number from 1 on.')
    batch = max(2, min(64, len(train.images) // 2))
    written = work_dir / 'config'  # MMEngine writes what it makes of a config into the work dir itself
    config = written / 'own.py'
    weights, state = None, None
    if args.pretrained:
        weights, state = find_weights(model, args.pretrained, written / 'weights.pth')
    beside = min(batch // 2, len(unlabelled.images)) if unlabelled else 0
    text = config_text(
        Plan(
            folder,
            names,
            train,
            val,
            unlabelled,
            method,
            model,
            network,
            weights,
            args.pretrained or False,
            size,
            batch,
            beside,
            epochs,
            written.resolve(),
        )
    )
    lists = {
        name: ''.join(f'{image} {label}\n' for image, label in part.images)
        for name, part in (('train.txt', train), ('val.txt', val), ('unlabelled.txt', unlabelled))
        if part is not None
    }
    check_written(config, text, lists, args.overwrite)
    check_work_dir(work_dir)
    written.mkdir(parents=True, exist_ok=True)
    for name, listed in lists.items():
        write_whole(written / name, listed)
    if weights is not None and state is not None:
        partial = weights.with_name(f'{weights.name}.{os.getpid()}.partial')
        torch.save(dict(state_dict=state), partial)
        put_in_place(partial, weights)
    write_whole(config, text)
    also = f' and {len(unlabelled.images)} without labels' if unlabelled else ''
    print(
        f'{len(train.images)} training and {len(val.images)} validation images of {len(names)} classes{also}, '
        f'crops of {size} pixels, {epochs} epochs of {images // batch} steps. The config is {config}.'
    )
    return str(config)


def check_written(config: Path, text: str, lists: dict[str, str], overwrite: bool) -> None:
    """Refuse to write over what a run goes by, or over another config.

    Args:
        config: The file, in a folder of the work dir.
        text: What is to be written into it.
        lists: What is to be written into the lists beside it, by their names.
        overwrite: Whether a run is set aside, so that its lists may change.

    Raises:
        ConfigError: If there is another config, or a run on other images.
    """
    work_dir = config.parent.parent

    def before(file: Path) -> str:
        return file.read_text(encoding='utf-8', errors='surrogateescape') if file.is_file() else ''

    has_run = bool(checkpoints(work_dir)) or (work_dir / POINTER).exists()
    if has_run and not overwrite and not config.is_file():
        raise ConfigError(f'work dir {work_dir} holds a run that --data did not begin. Choose another --work-dir.')
    if has_run and not overwrite:
        differences = []
        kinds = {'train.txt': 'training', 'val.txt': 'validation', 'unlabelled.txt': 'unlabelled'}
        for name, listed in lists.items():
            old = before(config.with_name(name))
            count, old_count = listed.count('\n'), old.count('\n')
            if count != old_count:
                differences.append(f'{count} {kinds[name]} images, the run there has {old_count}')
            elif listed != old:
                differences.append(f'{count} {kinds[name]} images as the run there, but other ones')
        if before(config) != text:
            differences.append('another config')
        if differences:
            raise ConfigError(
                f'work dir {work_dir} holds a run of something else: {"; ".join(differences)}. Choose another '
                f'--work-dir, or go on with that run by `mmcds train {config} --work-dir {work_dir} --resume`.'
            )
    if config.is_file() and before(config) != text:
        raise ConfigError(
            f'{config} exists and says something else. Train as it says by `mmcds train {config} --work-dir '
            f'{work_dir}`, or choose another --work-dir.'
        )


def supervision_text(method: str, network: Network) -> str:
    """Return what a method adds to the model; CDS as docs/study.md recommends, with cross-entropy on both views."""
    if method == 'plain':
        return ''
    views = ''
    if method == 'dsn':
        trunk = 'sepconv' if network.head == 'sepconv' else 'pool'
        inner = f"dsn=dict(type='DSNSupervision', taps={network.taps[:3]!r}, loss_weight=1.0, trunk={trunk!r})"
    else:
        inner = f"""cds=dict(
        type='ContrastiveSupervision',
        taps={network.taps!r},
        neck=dict(type='CDSNeck', head={network.head!r}),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.3))"""
        views = ',\n    ce_views=(0, 1)'
    return f'{views},\n    supervisions=dict({inner})'


def model_text(plan: Plan) -> str:
    """Return the model."""
    network, backbone = plan.network, dict(plan.network.backbone)
    if plan.weights:
        backbone['init_cfg'] = f"dict(type='Pretrained', checkpoint={str(plan.weights)!r})"
    parts = []
    if network.base is None:
        parts.append("type='CDSClassifier'")
    if backbone:
        parts.append(f'backbone=dict({", ".join(f"{key}={value}" for key, value in backbone.items())})')
    if network.base is None:
        head = f"head=dict(type='LinearClsHead', in_channels={network.width}, num_classes=len(classes))"
    else:
        head = 'head=dict(num_classes=len(classes))'
    inner = ',\n    '.join([*parts, head])
    return f'dict(\n    {inner}{supervision_text(plan.method, network)})'


def folders_text(part: Part, lists: Path, name: str) -> str:
    """Return the beginning of a data set of listed images."""
    return (
        f"type='QuickFolders', data_root='', data_prefix={str(part.root)!r},\n"
        f'    ann_file={str(lists / name)!r}, classes=classes'
    )


def config_text(plan: Plan) -> str:
    """Return the text of a config."""
    network, batch, size, epochs = plan.network, plan.batch, plan.size, plan.epochs
    base = network.small if network.small is not None and size < 128 else network.base
    bases = ['mmcds::_base_/runtime.py']
    if base is not None:
        bases.insert(0, f'mmcds::_base_/networks/{base}.py')
    views = '[view_0, view_1]' if plan.method == 'cds' else '[view_0]'
    rate = network.rate * batch * (0.1 if plan.weights else 1)  # trained weights are changed with care
    if plan.unlabelled is None:
        sampler, dataset, others = 'drop_last=True', 'labelled', ''
    else:
        sampler = f"batch_sampler=dict(type='SemiBatchSampler', num_unlabelled={plan.beside}, epoch='all')"
        dataset = "dict(type='PartiallyLabelledDataset', dataset=labelled, unlabelled=unlabelled)"
        others = f'\nunlabelled = dict(\n    {folders_text(plan.unlabelled, plan.lists, "unlabelled.txt")})'
    start = f', from {"weights of timm" if plan.pretrained is True else plan.pretrained}' if plan.weights else ''
    how = plan.method.upper() if plan.method != 'plain' else 'Plain training'
    return f'''"""{how}, {plan.model}{start}, on the images of {plan.folder}.

Written by `mmcds train --data`; edit it and run it again: mmcds train THIS_FILE
"""

_base_ = {bases!r}
classes = {list(plan.classes)!r}
size = {size}  # pixels of a side that the network sees
epochs = {epochs}
work_dir = {str(plan.lists.parent)!r}

model = {model_text(plan)}
data_preprocessor = dict(  # RGB, in grey levels
    num_classes=len(classes), mean={list(network.mean)!r}, std={list(network.std)!r}, to_rgb=True)

view_0 = [
    dict(type='RandomResizedCrop', scale=size),
    dict(type='RandomFlip', prob=0.5, direction='horizontal')]
view_1 = [
    dict(type='RandomResizedCrop', scale=size, crop_ratio_range=(0.2, 1.0)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomApply', prob=0.8, transforms=[
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')]),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))]
labelled = dict(
    {folders_text(plan.train, plan.lists, 'train.txt')},
    pipeline=[
        dict(type='LoadImage', max_unreadable=10), dict(type='MultiViewTransform', views={views}),
        dict(type='PackSample')]){others}
validation = dict(
    {folders_text(plan.val, plan.lists, 'val.txt')}, test_mode=True,
    pipeline=[
        dict(type='LoadImage'), dict(type='ResizeEdge', scale=size * 8 // 7, edge='short'),
        dict(type='CenterCrop', crop_size=size), dict(type='PackSample')])
train_dataloader = dict(
    batch_size={batch + plan.beside},
    num_workers={min(4, os.cpu_count() or 1)},
    worker_init_fn=dict(type='seed_worker'),
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    {sampler},
    dataset={dataset})
val_dataloader = dict(
    batch_size=64,
    num_workers={min(2, os.cpu_count() or 1)},
    collate_fn=dict(type='collate_samples'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=validation)
val_evaluator = dict(type='Accuracy', topk={(1, 5) if len(plan.classes) > 5 else (1,)!r})
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = {network.optimizer.format(rate)}
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end={min(5, epochs)}, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=0, end=epochs, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size={batch + plan.beside})
'''
