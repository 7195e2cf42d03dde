"""From a cell to its config: the method's own leaf, the network's fragment, and what the cell changes."""

import copy
import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.registration import resources
from mmcds.paper.cells import Cell, Method, Network
from mmcds.paper.tables import DETECTORS, FINE_GRAINED, METHODS, NETWORKS

#: Network and data set of the leaf that every method has for a data set.
BASES = dict(
    cifar10='resnet18_cifar10',
    cifar100='resnet18_cifar100',
    in1k='resnet50_in1k',
    fashion='resnet18w16_fashion',
    **{name: f'resnet50_{name}' for name in FINE_GRAINED},
)
#: What the method's leaf adds to the model of a network.
METHOD_KEYS = ('supervisions', 'teacher', 'taps', 'ce_views', 'frozen')
#: The mini scale: 1,000 of the embedded training images, 100 epochs, evaluated every fifth.
MINI_IMAGES, MINI_EPOCHS = 1000, 100


@lru_cache(maxsize=256)
def _read(path: Path, data_root: str | None) -> Config:
    return Config.fromfile(path)


def read(path: Path) -> Config:
    """Read a config file; the host needs a fifth of a second for it, so a table reads each file once.

    ``MMCDS_DATA_ROOT`` is written into a config when it is read, so it is part of the key.
    """
    return copy.deepcopy(_read(path, os.environ.get('MMCDS_DATA_ROOT')))


def why_not(cell: Cell) -> str:
    """Return why this build does not run a cell; empty if it does."""
    return cell.missing


def finetuned(cell: Cell) -> bool:
    """Return whether a cell starts from a backbone that was trained on other data."""
    return cell.start is not None and cell.start.dataset != cell.dataset


def leaf(cell: Cell) -> Path:
    """The method's config for the cell's data set; on a fine-grained set that of plain training, if it has none.

    Raises:
        ConfigError: If the method has none.
    """
    method = METHODS[cell.method]
    base = BASES.get(cell.dataset, cell.dataset) + ('-finetune' if finetuned(cell) else '')
    name = method.fashion if cell.dataset == 'fashion' and method.fashion else method.leaf.format(base=base)
    if cell.dataset == 'coco':
        name = f'detection/{DETECTORS[cell.setting]}_r50-{cell.method}_fpn_1x_coco'
    path = resources() / 'configs' / f'{name}.py'
    if cell.dataset in FINE_GRAINED and not path.is_file():
        path = resources() / 'configs' / 'plain' / f'{base}.py'
    if not path.is_file():
        raise ConfigError(f'{cell.name}: {method.title} has no config {path}. Add that file, or choose another cell.')
    return path


def compose(cell: Cell) -> Config:
    """Compose the config of a cell in memory.

    Args:
        cell: A cell that this build runs.

    Returns:
        A whole config, as ``tools/train.py`` takes it once it is in a file.

    Raises:
        ConfigError: If this build does not run the cell; the message is the cell's own reason.
    """
    if why_not(cell):
        raise ConfigError(f'{cell.name} is not run by this build: {why_not(cell)}.')
    method, network = METHODS[cell.method], NETWORKS[cell.network]
    config = read(leaf(cell))
    own = config.model
    if own.type != 'CDSClassifier':  # a model of the hosts, BYOL or a detector, holds its network itself
        config.merge_from_dict(dict(cell.options))
        return config
    if cell.dataset in FINE_GRAINED:  # the method is that of ImageNet, the size of the head is not
        own = read(leaf(replace(cell, dataset='in1k', start=None))).model
        own.head.num_classes = config.num_classes
    stem = '' if cell.dataset in ('in1k', *FINE_GRAINED) else '_cifar'
    config.model = read(resources() / f'configs/_base_/networks/{network.fragment}{stem}.py').model
    config.model.merge({key: own[key] for key in METHOD_KEYS if key in own})
    config.model.head.num_classes = own.head.num_classes
    config.model.head.loss = own.head.loss
    for supervision in filter(None, (config.model.get('supervisions') or {}).values()):
        adapt(supervision, network)
    if finetuned(cell):
        # the file that the ImageNet leaf of this method leaves; a plain leaf names that of plain training
        config.checkpoint = checkpoint = f'work_dirs/{cell.method}/resnet50_in1k/backbone_epoch_90.pth'
        config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
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


def scale_options(cell: Cell) -> dict[str, Any]:
    """Return what the mini scale changes in the leaf of the embedded images; nothing at the paper's scale."""
    if cell.network != 'mini':
        return {}  # the teacher of the mini scale is trained as its leaf says, on all embedded images
    options: dict[str, Any] = {
        'train_cfg.max_epochs': MINI_EPOCHS,
        'train_cfg.val_interval': 5,
        'param_scheduler.1.end': MINI_EPOCHS,
        'default_hooks.checkpoint.interval': 25,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
    }
    images = (
        'train_dataloader.dataset.dataset.indices' if cell.table == 'figure2' else 'train_dataloader.dataset.indices'
    )
    return {**options, images: MINI_IMAGES}


def seed_options(method: Method, seed: int) -> dict[str, int]:
    """Return settings that follow the seed of a run."""
    return dict.fromkeys(method.seed_options, seed)
