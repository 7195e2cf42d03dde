"""Make sure that a model really starts from the backbone that its config names."""

from pathlib import Path
from typing import cast

import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from mmpretrain.registry import HOOKS
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import check_architecture, compare_state, model_state, read_weights
from mmcds.openmmlab.hooks.check import bare_model


def _convolutions(network: nn.Module) -> list[str]:
    """Return the names of the convolutions of a network."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.modules.conv._ConvNd)]


@HOOKS.register_module()
class CheckBackboneHook(Hook):
    """Make sure that the backbone of a model really starts from the weights that its config names.

    MMEngine loads ``model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...)`` as far as names and shapes
    agree, and only warns about the rest. This hook compares before the run, and once more, value by value, before the
    first iteration. It accepts a training checkpoint of a classifier and an exported backbone alike, by setting the
    ``prefix`` itself where the config does not. A resumed run does not need the file any more.

    Args:
        may_miss: Tensors whose names contain one of these may be absent from the checkpoint: counters of
            BatchNorm, and layers that a detector adds to its backbone.
        resized: Tensors that a transformer fits to its own image size when it loads them; they are not compared.

    Raises:
        ConfigError: If the file does not exist, or a tensor of the backbone is missing in it, has another shape, or
            was overwritten after loading.
    """

    def __init__(
        self,
        may_miss: tuple[str, ...] = ('num_batches_tracked', 'conv_offset'),
        resized: tuple[str, ...] = ('pos_embed', 'relative_position', 'attn_mask'),
    ) -> None:
        self.may_miss, self.resized = tuple(may_miss), tuple(resized)
        self._source, self._expected = '', dict[str, Tensor]()

    def before_run(self, runner: Runner) -> None:
        """Compare the checkpoint with the backbone, before MMEngine loads it."""
        backbone = getattr(bare_model(runner), 'backbone', None)
        if runner._train_loop is None or backbone is None:
            return
        if runner._load_from or (runner._resume and find_latest_checkpoint(runner.work_dir)):
            backbone.init_cfg = None  # the whole model is loaded, see CheckCheckpointHook
            return
        self._check_whole(bare_model(runner))
        given = getattr(backbone, 'init_cfg', None) or {}
        entries = given if isinstance(given, list) else [given]
        pretrained = [entry for entry in entries if entry.get('type') == 'Pretrained']
        if not pretrained:
            runner.logger.info('CheckBackboneHook: the backbone starts from random weights, as its config says.')
            return
        found = self._read(pretrained[-1])
        wanted = {
            key: value for key, value in backbone.state_dict().items() if not any(part in key for part in self.resized)
        }
        missing, differing = compare_state(wanted, found)
        missing = [key for key in missing if not any(part in key for part in self.may_miss)]
        if missing or differing:
            self._refuse(backbone, found, missing, differing)
        self._expected = {key: found[key] for key in wanted if key in found}
        runner.logger.info(
            f'CheckBackboneHook: {self._source} has all {len(wanted) - len(missing)} tensors of the backbone, '
            f'{len(_convolutions(backbone))} convolutions among them.'
        )
        self._compare_normalisation(runner)

    def _check_whole(self, model: nn.Module) -> None:
        """Compare the file of ``model.pretrained`` or ``model.init_cfg``; another head is allowed."""
        given = getattr(model, 'init_cfg', None) or {}
        for entry in given if isinstance(given, list) else [given]:
            if entry.get('type') == 'Pretrained' and not entry.get('prefix'):
                source = str(entry['checkpoint'])
                wanted = {
                    key: value
                    for key, value in model.state_dict().items()
                    if not any(part in key for part in (*self.may_miss, *self.resized))
                }
                check_architecture(wanted, read_weights(source), source, 'backbone.')

    def _read(self, entry: ConfigDict) -> dict[str, Tensor]:
        """Load the file of an ``init_cfg`` and name its tensors as the backbone does."""
        self._source = source = str(entry['checkpoint'])
        how = 'MMCDS_BACKBONE=FILE or --cfg-options model.backbone.init_cfg.checkpoint=FILE'
        if '://' not in source and not Path(source).is_file():
            raise ConfigError(
                f'the backbone checkpoint {source} does not exist. Pre-train it with tools/train.py, or say where it '
                f'is by {how}: a checkpoint of a classifier, or what tools/export_backbone.py wrote.'
            )
        if source.endswith('.safetensors'):
            raise ConfigError(f'{source}: MMEngine loads .pth files only. Name the .pth export, by {how}.')
        checkpoint = CheckpointLoader.load_checkpoint(source, map_location='cpu')
        self._meta = checkpoint.get('meta') or {}
        state = checkpoint.get('state_dict', checkpoint)
        model_state(checkpoint, source)  # refuses what holds no weights, or such that are not finite
        if entry.get('prefix') is None:
            for prefix in ('backbone.', 'module.backbone.'):
                if any(key.startswith(prefix) for key in state):
                    entry['prefix'] = prefix
        prefix = entry.get('prefix') or ''
        prefix = f'{prefix}.' if prefix and not prefix.endswith('.') else prefix
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}

    def _refuse(self, backbone: nn.Module, found: dict, missing: list[str], differing: list[str]) -> None:
        network = type(backbone).__name__
        stem = found.get('conv1.weight')
        ours = backbone.state_dict().get('conv1.weight')
        if stem is not None and ours is not None and stem.shape[-1] != ours.shape[-1]:
            kinds = {3: 'the CIFAR stem (a 3x3 convolution, no pooling)', 7: 'the ImageNet stem (7x7, stride 2)'}
            theirs, needed = (kinds.get(t.shape[-1], f'a {t.shape[-1]}x{t.shape[-1]} stem') for t in (stem, ours))
            raise ConfigError(
                f'{self._source} has {theirs}, but the backbone of the model, {network}, has {needed}. '
                'Name a checkpoint with the same stem, such as one of configs/cds/resnet50_in1k.py for ImageNet, or '
                "give the model the backbone of the checkpoint (type='mmpretrain.ResNet_CIFAR' for CIFAR)."
            )
        weights = {f'{name}.weight' for name in _convolutions(backbone)}
        lost = weights & ({*missing} | {text.split(' ')[0] for text in differing})
        shown = '; '.join((differing + [f'{key} is missing' for key in missing])[:3])
        raise ConfigError(
            f'{self._source} gives {network} only {len(weights) - len(lost)} of its {len(weights)} convolutions: '
            f'{shown}; its tensors start with {sorted({key.split(".")[0] for key in found})[:5]}. Name a checkpoint '
            'of a classifier with the same backbone or its export, and in init_cfg the prefix of the backbone in it '
            "(dict(type='Pretrained', checkpoint=FILE, prefix='backbone.'); found by itself if left out)."
        )

    def _compare_normalisation(self, runner: Runner) -> None:
        """Compare how the images of an exported backbone were normalised."""
        theirs = (self._meta.get('normalisation') or {}).get('mean')
        ours = getattr(getattr(bare_model(runner), 'data_preprocessor', None), 'mean', None)
        if theirs is not None and ours is not None and not torch.allclose(ours.flatten().cpu(), torch.tensor(theirs)):
            runner.logger.warning(
                f'CheckBackboneHook: {self._source} was trained on images normalised with mean {theirs}, the '
                f'model uses {ours.flatten().tolist()}. Set model.data_preprocessor to the same.'
            )

    def before_train(self, runner: Runner) -> None:
        """Compare every value, after MMEngine has loaded."""
        if not self._expected:
            return
        state = cast(nn.Module, bare_model(runner).backbone).state_dict()
        lost = [
            key
            for key, value in self._expected.items()
            if not torch.equal(state[key].cpu(), value.to('cpu', state[key].dtype))
        ]
        if lost:
            raise ConfigError(
                f'{len(lost)} of {len(self._expected)} tensors of the backbone do not have the values of '
                f"{self._source}, such as {lost[0]}: something set them after they were loaded. Check the model's "
                'init_weights and further init_cfg.'
            )
        self._expected.clear()
