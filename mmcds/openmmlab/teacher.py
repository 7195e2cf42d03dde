"""The teacher of a config: which network it is, and where its weights come from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from mmengine.config import Config
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.step import Supervisions, taps_of_teacher
from mmcds.core.taps import NetworkInfo
from mmcds.core.teacher import RunsViews, Teacher
from mmcds.openmmlab.checkpoint import compare_state, file_sha256, read_weights


def read_model_config(source: str | Mapping | Config) -> tuple[dict[str, Any], str | None]:
    """Find the model of a config.

    Args:
        source: Config file, ``mmcds::`` path, name in :func:`mmpretrain.list_models`, a whole config, or the
            model's own dict.

    Returns:
        The model's config with its ``data_preprocessor``, and the address of published weights, if any.

    Raises:
        ConfigError: If nothing is found under that name.
    """
    weights = None
    if isinstance(source, Config):
        source = source.to_dict()
    if isinstance(source, Mapping):
        config: Mapping = source if 'model' in source else dict(model=source)
    elif '::' in source:
        from mmengine.hub import get_config

        config = get_config(source)
    elif source.endswith('.py'):
        if not Path(source).is_file():
            raise ConfigError(
                f'teacher: config {source} does not exist. Name a file, a path such as '
                'mmcds::cds/resnet50_in1k.py or a model name, or write the model as a dict.'
            )
        config = Config.fromfile(source)
    else:
        from mmpretrain.apis.model import ModelHub, list_models

        if source.lower() not in list_models():
            near = difflib.get_close_matches(source, list_models(), n=3, cutoff=0)
            raise ConfigError(
                f'teacher: there is no model named {source!r}; similar names: {", ".join(near)}. '
                'Use one of mmpretrain.list_models(), or a config file.'
            )
        found = ModelHub.get(source)
        config, weights = found.config, found.weights
    model = dict(config['model'])
    if model.get('data_preprocessor') is None:
        model['data_preprocessor'] = config.get('data_preprocessor') or {}
    return model, weights


class LoadedTeacher(Teacher):
    """A teacher that is described by a config, and whose weights are loaded when a training starts.

    The architecture comes from ``config`` when the student is built. The weights are loaded by :meth:`load`, which
    the student's ``init_weights`` calls, so that a trained student is tested and used without its teacher's
    checkpoint. A student of another teacher can be the teacher: its own teacher and the supervisions that nobody
    listens to are left out.

    The teacher sees the student's views. If it was trained with another mean and standard deviation, they are
    converted; the channel order is taken to be the same.

    Args:
        supervisions: Those of the student, which say what of the teacher they compare with.
        config: See :func:`read_model_config`; any MMPretrain ``ImageClassifier`` or a ``CDSClassifier``.
        checkpoint: File or address of its weights, or the name of a network of the zoo. Defaults to the published ones
            of a model name.
        mode: See :class:`mmcds.core.Teacher`.

    Attributes:
        identity: What goes into the student's checkpoints: config, file name and SHA-256; None before loading.

    Raises:
        ConfigError: If the config cannot be used as a teacher.
    """

    def __init__(
        self,
        supervisions: Supervisions,
        config: str | Mapping | Config,
        checkpoint: str | None = None,
        mode: str = 'eval',
    ) -> None:
        from mmcds.openmmlab.zoo import find  # which is also a command, so that the package does not import it

        model, weights = read_model_config(config)
        preprocessor = model['data_preprocessor']
        super().__init__(None, mode, preprocessor.get('mean'), preprocessor.get('std'))
        kind = model.get('type', 'ImageClassifier')
        if not issubclass(MODELS.get(kind) if isinstance(kind, str) else kind, ImageClassifier):
            raise ConfigError(
                f'teacher: {config} describes a {kind}; a teacher is an ImageClassifier or a '
                'CDSClassifier, with backbone, neck and head. Name such a config.'
            )
        own = model.get('supervisions') or {}
        taps, names = taps_of_teacher(supervisions.parts())
        for name in names:
            if not own.get(name):
                raise ConfigError(
                    f'teacher: its embeddings of supervision {name!r} are to be distilled, but its config has '
                    f'{sorted(own) or "no supervisions"}. Take a teacher that was trained with CDS, '
                    'set `teacher` of EmbeddingDistillation to its name there, or remove EmbeddingDistillation.'
                )
        self.name = config if isinstance(config, str) else str(model['backbone'].get('type'))
        self.checkpoint = find(checkpoint) if checkpoint else weights
        self.identity: dict[str, Any] | None = None
        self._config = dict(
            type='CDSClassifier',
            backbone=model['backbone'],
            neck=model.get('neck'),
            head=model.get('head'),
            supervisions={name: own[name] for name in names},
            taps=tuple(taps),
            channels_last='auto' if model.get('channels_last') else False,
        )

    def _build(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # the student starts from the same weights with and without it
            return MODELS.build(self._config)

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes, from the architecture alone."""
        return cast(RunsViews, self._network or self._build()).measure()

    def load(self) -> None:
        """Build the network and fill it from the checkpoint; calling it again does nothing.

        Raises:
            ConfigError: If there is no checkpoint, or if it lacks tensors or holds tensors of other shapes.
        """
        if self._network is not None:
            return
        if self.checkpoint is None:
            raise ConfigError(f'teacher: {self.name} comes without weights. Set model.teacher.checkpoint.')
        remote = '://' in self.checkpoint
        if not remote and not Path(self.checkpoint).is_file():
            raise ConfigError(
                f'teacher: checkpoint {self.checkpoint} does not exist. Train the teacher first (python '
                f'tools/train.py {self.name}), or name its file: --cfg-options model.teacher.checkpoint=FILE.'
            )
        state = read_weights(self.checkpoint)
        network = self._build()
        self._check(network.state_dict(), state)
        network.load_state_dict(state, strict=False)
        file = (
            Path(torch.hub.get_dir(), 'checkpoints', Path(self.checkpoint).name) if remote else Path(self.checkpoint)
        )
        self.identity = dict(
            config=self.name,
            checkpoint=file.name,
            mode=self.mode,
            sha256=file_sha256(file) if file.is_file() else None,
        )
        self.freeze(cast(RunsViews, network))

    def _check(self, wanted: dict[str, Tensor], state: dict[str, Tensor]) -> None:
        missing, differing = compare_state(wanted, state)
        heads = sorted({key.split('.')[1] for key in missing if key.startswith('supervisions.')})
        if heads and all(key.startswith('supervisions.') for key in missing):
            raise ConfigError(
                f'teacher: checkpoint {self.checkpoint} holds no projection heads of supervision {heads[0]!r}, '
                'whose embeddings are to be distilled. Take the training checkpoint of a CDS teacher (not its '
                'export), or remove EmbeddingDistillation.'
            )
        if missing or differing:
            shown = '; '.join((differing + [f'{key} is missing' for key in missing])[:3])
            raise ConfigError(
                f'teacher: checkpoint {self.checkpoint} does not fit {self.name}: {shown}. Use the '
                'config with which it was trained.'
            )
