"""The frozen teacher: another classifier that looks at the same images, beside the student and not in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import Tensor

from mmcds.checkpoint import compare_state, file_sha256, model_state
from mmcds.errors import ConfigError
from mmcds.taps import NetworkInfo, Tap
from mmcds.trace import Trace

if TYPE_CHECKING:
    from mmcds.classifiers.cds import CDSClassifier


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


class Teacher:
    """Frozen network whose Trace of the student's images supervisions compare with.

    It is no module: optimiser, ``state_dict``, ``train()``, ``to()``, SyncBatchNorm conversion and the
    distributed wrapper never meet it, and averaged copies of the student share it. It follows the student to its
    device and type when it is called.

    The architecture comes from ``config`` when the student is built. The weights are loaded when a training
    starts (:meth:`load`, called by the student's ``init_weights``), so that a trained student is tested and
    used without its teacher's checkpoint. A student of another teacher can be the teacher: its own teacher and
    the supervisions that nobody listens to are left out.

    The teacher sees the student's views. If it was trained with another mean and standard deviation, they are
    converted; the channel order is taken to be the same.

    Args:
        config: See :func:`read_model_config`; any MMPretrain ``ImageClassifier`` or a :class:`CDSClassifier`.
        checkpoint: File or address of its weights. Defaults to the published ones of a model name.
        mode: ``'eval'``, or ``'train'`` for what the released code does: BatchNorm normalises with the
            statistics of the batch (and its running ones drift, unused), dropout is active.
        taps: Places whose output must be in ``features``.
        embeddings_of: Supervisions of the teacher's config whose embeddings must be in ``embeddings``.

    Attributes:
        identity: What goes into the student's checkpoints: config, file name and SHA-256; None before loading.

    Raises:
        ConfigError: If the config cannot be used as a teacher.
    """

    def __init__(
        self,
        config: str | Mapping | Config,
        checkpoint: str | None = None,
        mode: str = 'eval',
        taps: Iterable[Tap] = (),
        embeddings_of: Iterable[str] = (),
    ) -> None:
        if mode not in ('eval', 'train'):
            raise ConfigError(f"teacher: mode is {mode!r}; choose 'eval' or 'train'.")
        model, weights = read_model_config(config)
        kind = model.get('type', 'ImageClassifier')
        if not issubclass(MODELS.get(kind) if isinstance(kind, str) else kind, ImageClassifier):
            raise ConfigError(
                f'teacher: {config} describes a {kind}; a teacher is an ImageClassifier or a '
                'CDSClassifier, with backbone, neck and head. Name such a config.'
            )
        supervisions = model.get('supervisions') or {}
        names = tuple(dict.fromkeys(embeddings_of))
        for name in names:
            if not supervisions.get(name):
                raise ConfigError(
                    f'teacher: its embeddings of supervision {name!r} are to be distilled, but its config has '
                    f'{sorted(supervisions) or "no supervisions"}. Take a teacher that was trained with CDS, '
                    'set `teacher` of EmbeddingDistillation to its name there, or remove EmbeddingDistillation.'
                )
        self.name = config if isinstance(config, str) else str(model['backbone'].get('type'))
        self.checkpoint = checkpoint or weights
        self.mode = mode
        self.identity: dict[str, Any] | None = None
        self._config = dict(
            type='CDSClassifier',
            backbone=model['backbone'],
            neck=model.get('neck'),
            head=model.get('head'),
            supervisions={name: supervisions[name] for name in names},
            taps=tuple(taps),
            channels_last=model.get('channels_last', False),
        )
        preprocessor = model['data_preprocessor']
        self._mean, self._std = preprocessor.get('mean'), preprocessor.get('std')
        self._network: CDSClassifier | None = None

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self

    def _build(self) -> CDSClassifier:
        with torch.random.fork_rng(devices=[]):  # the student starts from the same weights with and without it
            return MODELS.build(self._config)

    def measure(self) -> NetworkInfo:
        """Widths, strides and number of classes, from the architecture alone."""
        return self._build().measure()

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
        loaded = CheckpointLoader.load_checkpoint(self.checkpoint, map_location='cpu')
        state = model_state(loaded)
        network = self._build()
        self._check(network.state_dict(), state)
        network.load_state_dict(state, strict=False)
        network.requires_grad_(False)
        network.train(self.mode == 'train')
        file = (
            Path(torch.hub.get_dir(), 'checkpoints', Path(self.checkpoint).name) if remote else Path(self.checkpoint)
        )
        self.identity = dict(
            config=self.name,
            checkpoint=file.name,
            mode=self.mode,
            sha256=file_sha256(file) if file.is_file() else None,
        )
        self._network = network

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

    @torch.no_grad()
    def __call__(self, views: Tensor, labels: Tensor, sample_idx: Tensor | None, student: CDSClassifier) -> Trace:
        """Look at the student's views.

        Args:
            views: What the student sees, (V, N, 3, H, W).
            labels: Passed on, (N,).
            sample_idx: Passed on, (N,) or None.
            student: For its device, type and normalisation.
        """
        self.load()
        network = self._network
        assert network is not None
        own, other = next(network.parameters()), next(student.backbone.parameters())
        if own.device != other.device or own.dtype != other.dtype:
            network.to(device=other.device, dtype=other.dtype)
        return network.run(self._normalise(views, student), labels, sample_idx)

    def _normalise(self, views: Tensor, student: CDSClassifier) -> Tensor:
        """From the student's mean and standard deviation to the teacher's."""
        mean, std = (getattr(student.data_preprocessor, key, None) for key in ('mean', 'std'))
        if self._mean is None or mean is None or std is None:
            return views
        to_mean, to_std = (
            torch.tensor(value, device=mean.device, dtype=mean.dtype).view(-1, 1, 1)
            for value in (self._mean, self._std)
        )
        if torch.equal(to_mean, mean) and torch.equal(to_std, std):
            return views
        return ((views * std + mean - to_mean) / to_std).to(views.dtype)
