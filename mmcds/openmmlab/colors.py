"""Where the colours of the views are computed: written into the config, at both ends, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS

from mmcds.core.errors import ConfigError
from mmcds.data.in_memory import InMemory
from mmcds.data.partially_labelled import PartiallyLabelledDataset
from mmcds.views.multi_view import MultiViewTransform
from mmcds.views.preprocessor import CDSDataPreprocessor


def pipelines(dataset: dict) -> Iterator[list]:
    """Return the pipelines of a data set's config and of the data sets that it wraps."""
    if dataset.get('pipeline'):
        yield dataset['pipeline']
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    for each in inner:
        if isinstance(each, dict):
            yield from pipelines(each)


def is_kind(registry: Any, config: Any, *classes: type) -> bool:
    """Return whether a config names one of these classes, or one derived from them."""
    kind = config.get('type') if isinstance(config, dict) else None
    found = registry.get(kind) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, classes)


def held_in_memory(dataset: dict) -> bool:
    """Return whether a data set cuts whole batches from one array; see :class:`mmcds.data.InMemory`."""
    if is_kind(DATASETS, dataset, PartiallyLabelledDataset):
        return not dataset.get('unlabelled') and held_in_memory(dataset.get('dataset') or {})
    return is_kind(DATASETS, dataset, InMemory)


def place_colors(config: Config) -> None:
    """Decide where training computes colour, blur and Cutout, and write it into the config.

    ``color_on`` of :class:`mmcds.views.multi_view.MultiViewTransform` becomes ``'worker'`` or ``'device'``, and with
    the latter ``view_colors`` of :class:`mmcds.views.preprocessor.CDSDataPreprocessor` gets the distributions.
    ``'auto'`` is ``'device'`` if there is a GPU, or if the data set is held in memory: on a CPU, OpenCV is faster for
    large images, and the batch for small ones, where each call counts.

    Args:
        config: Config of a training; changed in place. A config without such a transform stays as it is.

    Raises:
        ConfigError: If ``color_on='device'`` cannot be had.
    """
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        _place(config)


def _place(config: Config) -> None:
    dataset = (config.get('train_dataloader') or {}).get('dataset') or {}
    steps = [step for each in pipelines(dataset) for step in each if is_kind(TRANSFORMS, step, MultiViewTransform)]
    if not steps:
        return
    wishes = {step.get('color_on', 'auto') for step in steps}
    colors = [TRANSFORMS.build({**step}).colors for step in steps]
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    ours = is_kind(MODELS, {'type': 'CDSDataPreprocessor', **preprocessor}, CDSDataPreprocessor)
    able = ours and config.model.get('type', '').endswith('CDSClassifier') and all(c == colors[0] for c in colors)
    if 'device' in wishes and not (able and len(wishes) == 1):
        raise ConfigError(
            "MultiViewTransform: color_on is 'device', but only the CDSDataPreprocessor of a CDSClassifier computes "
            "colours of a batch, and only if all images of the training set get the same ones. Use color_on='worker', "
            'or change data_preprocessor or the pipelines.'
        )
    chosen = colors[0] if able else None
    sooner = torch.cuda.is_available() or held_in_memory(dataset)
    on_device = wishes == {'device'} or (wishes == {'auto'} and sooner and chosen is not None)
    for step in steps:
        step['color_on'] = 'device' if on_device else 'worker'
    if on_device and chosen is not None:
        views = [None if color is None else asdict(color) for color in chosen]
        if config.model.get('data_preprocessor') is not None:
            config.model.data_preprocessor.view_colors = views
        else:
            config.data_preprocessor = {**preprocessor, 'view_colors': views}
