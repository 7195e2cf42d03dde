"""From a cell to its config: the method's own leaf, the network's fragment, and what the cell changes."""

import copy
import os
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.paper.cells import Cell, Method, Network
from mmcds.paper.tables import BASELINES, DETECTORS, FINE_GRAINED, METHODS, NETWORKS, RIVALS
from mmcds.resources import resources

#: Network and data set of the leaf that a method has for a data set.
BASES = dict(
    cifar10='resnet18_cifar10',
    cifar100='resnet18_cifar100',
    in1k='resnet50_in1k',
    fashion='resnet18w16_fashion',
    emoji='resnet10w16_emoji',
    **{name: f'resnet50_{name}' for name in FINE_GRAINED},
)
#: Data sets that are trained like another one: the same leaf, with other images and classes.
LIKE = dict(cifar10='cifar100', **{name: 'cub200' for name in FINE_GRAINED if name != 'cub200'})
#: Data set whose leaf describes a method that trains like plain training and has no leaf for a data set of its own.
DESCRIBED_BY = dict(fashion='cifar100', emoji='cifar100', **dict.fromkeys(FINE_GRAINED, 'in1k'))
#: What the method's leaf adds to the model of a network.
METHOD_KEYS = ('supervisions', 'teacher', 'taps', 'ce_views', 'frozen')
#: How networks take images of 32 pixels, where that is not another class with the suffix ``_CIFAR``.
SMALL_STEMS = {'PreActResNet': dict(stem='cifar'), 'MobileNetV1': dict(stem_stride=1)}
#: Plain training of the students that are distilled on the embedded images, and their teacher.
STUDENT, STUDENTS_TEACHER = 'distill/resnet18w8s_fashion-plain', 'distill/resnet18w16s_fashion-teacher'
#: The three forms of CDS: what the released code does, what the paper's text says, and what docs/study.md recommends.
PRESETS = ('official', 'paper', 'tuned')
#: Forms of the networks: as torchvision and timm have them; for CIFAR as the code base has them that papers commonly
#: use, see mmcds/networks/cifar100_repo.py; ImageNet's ResNets as the released code runs them, see UnpooledResNet.
FORMS = ('library', 'cifar100repo', 'released')
#: Heads of Section 3.3, convolutions and then Linear - ReLU - Linear; their width is not in the paper.
TEXT_HEADS = dict(type='CDSNeck', head='sepconv+mlp', out_channels=128)
#: Weight of the contrast beside cross-entropy on both views; of 0.1, 0.3, 1 and 3 the one that held-out images chose
#: where a class has 100 images or more, see docs/study.md.
TUNED_WEIGHT = 0.3
#: The mini scale: 1,000 of the embedded training images, 100 epochs, evaluated every fifth. In colour all images are
#: used, for as many epochs as their leaf says.
MINI_IMAGES, MINI_EPOCHS = 1000, 100


@lru_cache(maxsize=256)
def _read(path: Path, data_root: str | None) -> Config:
    return Config.fromfile(path)


def read(path: Path) -> Config:
    """Read a config file; MMEngine needs a fifth of a second for it, so a table reads each file once.

    ``MMCDS_DATA_ROOT`` is written into a config when it is read, so it is part of the key.
    """
    return copy.deepcopy(_read(path, os.environ.get('MMCDS_DATA_ROOT')))


def why_not(cell: Cell) -> str:
    """Return why this build does not run a cell; empty if it does."""
    return cell.missing


def finetuned(cell: Cell) -> bool:
    """Return whether a cell starts from a backbone that was trained on other data."""
    return cell.start is not None and cell.start.dataset != cell.dataset


def file(name: str) -> Path:
    """Return the path of a config of the package, named without folder ``configs`` and ``.py``."""
    return resources() / 'configs' / f'{name}.py'


def read_leaf(cell: Cell) -> Config:
    """Read the method's config for the data set of a cell, or derive it from the nearest file that exists.

    1. The method's own file for the data set.
    2. That of the data set that is trained alike (:data:`LIKE`), with the images and classes of this one.
    3. The file of plain training, with the method as its file for CIFAR-100 or ImageNet describes it.

    Raises:
        ConfigError: If there is none.
    """
    method, dataset = METHODS[cell.method], cell.dataset
    if dataset == 'coco':
        return read_detector(cell)
    base = BASES[dataset] + ('-finetune' if finetuned(cell) else '')
    path = file(method.fashion if dataset == 'fashion' and method.fashion else method.leaf.format(base=base))
    if path.is_file():
        return read(path)
    if dataset in LIKE:
        return with_images_of(dataset, read_leaf(replace(cell, dataset=LIKE[dataset])), LIKE[dataset])
    if dataset not in DESCRIBED_BY:
        raise ConfigError(f'{cell.name}: {method.title} has no config {path}. Add that file, or choose another cell.')
    distils = cell.method in BASELINES or cell.method in RIVALS
    config = read(file(STUDENT if distils else f'plain/{base}'))
    own = read_leaf(replace(cell, dataset=DESCRIBED_BY[dataset], start=None)).model
    take_method(config.model, own)
    if distils and own.get('teacher'):
        config.model.teacher.config = f'mmcds::{STUDENTS_TEACHER}.py'
        config.model.teacher.checkpoint = f'work_dirs/{STUDENTS_TEACHER}/epoch_15.pth'
    return config


def read_detector(cell: Cell) -> Config:
    """Read the detector of a cell, and let it start from the backbone of the cell's method."""
    config = read(file(f'detection/{DETECTORS[cell.setting]}_r50-plain_fpn_1x_coco'))
    start_from_backbone(config, cell.method)
    return config


def take_method(model: ConfigDict, own: ConfigDict) -> None:
    """Write the method of one model into another one: what it adds to a network, and its loss of the classes."""
    model.merge({key: own[key] for key in METHOD_KEYS if key in own})
    model.head.loss = own.head.loss


def start_from_backbone(config: Config, method: str) -> None:
    """Let a network start from the file that the ImageNet leaf of a method leaves, or from ``MMCDS_BACKBONE``.

    The config was read from a file that takes the variable, or the file of plain training, as ``checkpoint``.
    """
    if 'MMCDS_BACKBONE' not in os.environ:
        config.checkpoint = f'work_dirs/{method}/resnet50_in1k/backbone_epoch_90.pth'
    start = dict(type='Pretrained', checkpoint=config.checkpoint)
    config.model.backbone.init_cfg = {**(config.model.backbone.get('init_cfg') or {}), **start}


def with_images_of(dataset: str, config: Config, other: str) -> Config:
    """Let a config that loads one data set load another one, through the same pipelines.

    Args:
        dataset: The new data set, a fragment under ``configs/_base_/datasets``.
        config: Changed in place.
        other: The data set that it loads.
    """
    new, old = (read(file(f'_base_/datasets/{name}')) for name in (dataset, other))
    pairs = [(old[loader].dataset, new[loader].dataset) for loader in ('train_dataloader', 'val_dataloader')]

    def exchange(node: dict) -> None:
        for before, after in pairs:
            if (node.get('type'), node.get('split')) == (before.type, before.split):
                for key in before.keys() - {'pipeline'}:
                    node.pop(key)
                node.update({key: value for key, value in after.items() if key != 'pipeline'})
                return

    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        walk(config.get(loader), exchange)
    teacher = config.model.get('teacher') or {}
    for key in teacher.keys() & {'config', 'checkpoint'}:
        teacher[key] = teacher[key].replace(other, dataset)
    config.num_classes, config.data_root = new.num_classes, new.data_root
    config.model.head.num_classes = config.data_preprocessor.num_classes = new.num_classes
    return config


def walk(node: Any, change: Callable[[dict], None]) -> None:
    """Call ``change`` with every dict within nested dicts and lists."""
    if isinstance(node, dict):
        change(node)
        node = tuple(node.values())
    if isinstance(node, (list, tuple)):
        for each in node:
            walk(each, change)


def read_network(network: Network, small: bool, form: str = 'library') -> ConfigDict:
    """Return the model of a network, for images of 32 pixels if ``small``.

    A network that has no other form is the same in all of :data:`FORMS`.
    """
    large, cifar, repo = (
        file(f'_base_/networks/{network.fragment}{kind}') for kind in ('', '_cifar', '_cifar100repo')
    )
    options = dict(network.options)
    if form == 'cifar100repo' and small and repo.is_file():
        config = read(repo)
        options.update(network.repo_options)
    elif small and cifar.is_file():
        config = read(cifar)
    else:
        config = read(large)
        kind = config.model.backbone.type
        if small:
            config.model.backbone.update(SMALL_STEMS.get(kind, dict(type=f'{kind}_CIFAR')))
            config.model.head.num_classes = 10
        elif form == 'released' and kind == 'ResNet':
            config.model.backbone.type = 'UnpooledResNet'
    config.merge_from_dict({f'model.{key}': value for key, value in options.items()})
    return config.model


def is_small(cell: Cell) -> bool:
    """Return whether the images of a cell have 32 pixels a side or less."""
    return cell.dataset not in ('in1k', 'coco', *FINE_GRAINED)


def has_form(cell: Cell, form: str) -> bool:
    """Return whether a cell is another training in a form of :data:`FORMS` than in the first one."""
    small = is_small(cell)
    model = read_network(NETWORKS[cell.network], small)
    return cell.dataset != 'coco' and model != read_network(NETWORKS[cell.network], small, form)


def compose(cell: Cell, preset: str = 'official', form: str = 'library') -> Config:
    """Compose the config of a cell in memory.

    Args:
        cell: A cell that this build runs.
        preset: ``'official'``, CDS as the released code does it, ``'paper'``, as the text says, see
            :func:`follow_text`, or ``'tuned'``, see :func:`tune`. Cells without CDS are the same in all.
        form: That of the network, one of :data:`FORMS`.

    Returns:
        A whole config, as ``tools/train.py`` takes it once it is in a file.

    Raises:
        ConfigError: If this build does not run the cell; the message is the cell's own reason.
    """
    for name, value, choices in (('preset', preset, PRESETS), ('form', form, FORMS)):
        if value not in choices:
            raise ConfigError(f'{name} is {value!r}; choose among {", ".join(map(repr, choices))}.')
    if why_not(cell):
        raise ConfigError(f'{cell.name} is not run by this build: {why_not(cell)}.')
    method, network = METHODS[cell.method], NETWORKS[cell.network]
    config = read_leaf(cell)
    own = config.model
    if own.type != 'CDSClassifier':  # a model of OpenMMLab, BYOL or a detector, holds its network itself
        config.merge_from_dict(dict(cell.options))
        return config
    config.model = read_network(network, is_small(cell), form)
    take_method(config.model, own)
    config.model.head.num_classes = own.head.num_classes
    for supervision in filter(None, (config.model.get('supervisions') or {}).values()):
        adapt(supervision, network)
        if preset == 'paper':
            follow_text(supervision, semi='batch_sampler' in config.train_dataloader)
    if preset == 'tuned':
        tune(config.model)
    if finetuned(cell):
        start_from_backbone(config, cell.method)
    config.merge_from_dict({**scale_options(cell), **method.options, **cell.options})
    return config


def adapt(supervision: dict[str, Any], network: Network) -> None:
    """Point the numbered taps of a supervision at the stages of a network, counted from the last one.

    The teacher is a residual network and keeps its own numbers.
    """
    if supervision.get('taps'):
        kept = [tap for tap in supervision['taps'] if not isinstance(tap, int) or tap >= 4 - len(network.stages)]
        supervision['taps'] = tuple(network.stages[tap - 4] if isinstance(tap, int) else tap for tap in kept)
        if supervision['taps'] != tuple(kept) and MODELS.get(supervision['type']).needs_teacher:
            supervision['teacher_taps'] = tuple(kept)
    if supervision['type'] == 'EmbeddingDistillation' and not network.residual:
        supervision['taps'] = network.stages  # at other strides than the teacher's, so they are paired by name
        supervision['teacher_taps'] = tuple(range(4 - len(network.stages), 4))
    if supervision.get('trunk') == 'branch' and not network.residual:
        supervision['trunk'] = 'sepconv'  # no layout exists; the like-for-like form


def follow_text(supervision: dict[str, Any], semi: bool) -> None:
    """Give a supervision of CDS the form of the paper's text, Section 3.3: K - 1 heads, and Eq. 8 over as many.

    In a semi-supervised training the unlabelled images have a term of their own, as in Eq. 6. A cell's own options
    come after it, so Figure 3 and the study of placements keep the heads that they ask for.
    """
    if supervision['type'] == 'ContrastiveSupervision':
        supervision.update(taps=tuple(supervision['taps'][:-1]), neck=dict(TEXT_HEADS))
        if semi:
            supervision['unlabelled_weight'] = 1.0
    elif supervision['type'] == 'EmbeddingDistillation':
        pairs = {key: tuple(supervision[key][:-1]) for key in ('taps', 'teacher_taps') if supervision.get(key)}
        supervision.update(pairs)  # without them all heads are paired in order


def tune(model: ConfigDict) -> None:
    """Give CDS what docs/study.md recommends: cross-entropy on both views, and :data:`TUNED_WEIGHT`.

    Distillation, which the study compares in another way, is not changed.
    """
    own = (model.get('supervisions') or {}).get('cds')
    if own is not None and not model.get('teacher'):
        model.ce_views = (0, 1)
        own.loss.loss_weight = TUNED_WEIGHT


def scale_options(cell: Cell) -> dict[str, Any]:
    """Return what the mini scale changes in the leaf of the embedded images; nothing at the paper's scale."""
    if cell.network != 'mini':
        return {}  # the teacher of the mini scale is trained as its leaf says, on all embedded images
    options: dict[str, Any] = {
        'train_cfg.val_interval': 5,
        'default_hooks.checkpoint.interval': 25,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
    }
    if cell.dataset == 'emoji':
        return options
    options.update({'train_cfg.max_epochs': MINI_EPOCHS, 'param_scheduler.1.end': MINI_EPOCHS})
    images = (
        'train_dataloader.dataset.dataset.indices' if cell.table == 'figure2' else 'train_dataloader.dataset.indices'
    )
    return {**options, images: MINI_IMAGES}


def seed_options(method: Method, seed: int) -> dict[str, int]:
    """Return settings that follow the seed of a run."""
    return dict.fromkeys(method.seed_options, seed)
