"""Reading checkpoints: their config, their weights, their hash, and what a model would miss in them."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.untrusted import read_checkpoint, read_config_text, trusted


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open('rb') as file:
        return (
            hashlib.file_digest(file, 'sha256').hexdigest()
            if hasattr(hashlib, 'file_digest')
            else hashlib.sha256(file.read()).hexdigest()
        )


def load_training_checkpoint(path: str | Path) -> tuple[dict[str, Any], Config]:
    """Load a checkpoint of MMEngine's runner together with the config that it carries.

    Raises:
        ConfigError: If the file does not exist or carries no config.
    """
    checkpoint = read_checkpoint(path)
    text = checkpoint.get('meta', {}).get('cfg') if isinstance(checkpoint, dict) else None
    if not text or not isinstance(text, str):
        raise ConfigError(
            f'{path} carries no config in meta["cfg"], so its architecture is unknown. Export from '
            'a checkpoint that tools/train.py wrote.'
        )
    return checkpoint, Config.fromstring(text, '.py') if trusted() else read_config_text(text, path)


def read_weights(path: str) -> dict[str, Tensor]:
    """Read the weights of a training checkpoint or of a bare state dict, from a file or an address.

    Raises:
        ConfigError: If the file does not exist, is damaged, could run code, or holds no weights or such that are not
            finite.
    """
    remote = '://' in path
    return model_state(CheckpointLoader.load_checkpoint(path, 'cpu') if remote else read_checkpoint(path), path)


def model_state(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, or of a bare state dict, without the prefix of a distributed wrapper.

    Raises:
        ConfigError: If there are none, or if they are complex or not finite.
    """
    found = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    tensors = found.items() if isinstance(found, Mapping) else ()
    state = {str(key).removeprefix('module.'): value for key, value in tensors if isinstance(value, Tensor)}
    if not state:
        raise ConfigError(f'{source} holds no weights: it is neither a training checkpoint nor a state dict.')
    check_finite(state, source, 'tensors')
    return state


def check_training_state(checkpoint: Mapping[str, Any], source: str) -> None:
    """Refuse a checkpoint from which a training cannot go on.

    Raises:
        ConfigError: If the state of the optimiser or the numbers of the epoch and the step are missing.
    """
    if not {'optimizer', 'message_hub'} <= checkpoint.keys():
        raise ConfigError(
            f'{source} holds weights and no state of the optimiser, so a training cannot go on from it. Resume '
            f'from epoch_N.pth, or start a training from these weights: --cfg-options load_from={source}.'
        )
    meta = checkpoint.get('meta')
    numbers = [meta.get(name) for name in ('epoch', 'iter')] if isinstance(meta, Mapping) else [None]
    optimiser = checkpoint['optimizer']
    parts = [optimiser, checkpoint['message_hub'], *(optimiser.values() if isinstance(optimiser, Mapping) else ())]
    parts = [each for each in parts if not isinstance(each, list)]  # groups of parameters
    if not all(isinstance(each, int) for each in numbers) or not all(isinstance(each, Mapping) for each in parts):
        raise ConfigError(
            f'{source} is damaged: it does not say at which step its training was, or what its optimiser had. Resume '
            'from another checkpoint.'
        )


def check_finite(state: Mapping[str, Tensor], source: str | Path, what: str) -> None:
    """Refuse weights that are complex or not finite.

    Args:
        state: The tensors.
        source: The file that they are from.
        what: What they are, for the message.

    Raises:
        ConfigError: Naming the first of them.
    """
    odd = [key for key, value in state.items() if value.is_complex()]
    if odd:
        raise ConfigError(f'{source}: {odd[0]} holds complex numbers, which are no weights. Name another file.')
    bad = not_finite(state)
    if bad:
        raise ConfigError(
            f'{source}: {len(bad)} of {len(state)} {what} are not finite, such as {bad[0]}: its training has '
            'diverged. Take an earlier checkpoint.'
        )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity; minus infinity is allowed, as masks have it."""
    real = {key: value for key, value in state.items() if value.is_floating_point()}
    return [key for key, value in real.items() if torch.isnan(value).any() or torch.isposinf(value).any()]


def load_model(config: Config, state: dict[str, Tensor], source: str, backbone: nn.Module | None = None) -> nn.Module:
    """Build a trained network without supervisions and teacher, in evaluation mode, on the GPU if there is one.

    Args:
        config: Its config.
        state: Its weights.
        source: Where they come from, for messages.
        backbone: Takes the place of the one that the config describes.

    Raises:
        ConfigError: If the weights are of another architecture.
    """
    changes: dict[str, Any] = {key: None for key in ('supervisions', 'teacher') if config.model.get(key)}
    changes['data_preprocessor'] = config.model.get('data_preprocessor') or config.get('data_preprocessor')
    if backbone is not None:
        changes['backbone'] = backbone
    model = MODELS.build({**config.model, **changes})
    check_architecture(model.state_dict(), state, source)
    model.load_state_dict(state, strict=False)
    return model.to('cuda' if torch.cuda.is_available() else 'cpu').eval()


def compare_state(
    model_state: dict[str, Tensor], found: dict[str, Tensor], prefixes: Iterable[str] = ('',)
) -> tuple[list[str], list[str]]:
    """List what a checkpoint cannot give to a model.

    Args:
        model_state: The model's state dict.
        found: The checkpoint's.
        prefixes: Only keys that start with one of these count.

    Returns:
        Keys that are missing, and descriptions of keys whose shapes differ.
    """
    keys = [key for key in model_state if key.startswith(tuple(prefixes))]
    missing = [key for key in keys if key not in found]
    differing = [
        f'{key} {tuple(found[key].shape)} instead of {tuple(model_state[key].shape)}'
        for key in keys
        if key in found and found[key].shape != model_state[key].shape
    ]
    return missing, differing


def check_architecture(wanted: dict[str, Tensor], state: dict[str, Tensor], source: str, prefix: str = '') -> None:
    """Refuse a checkpoint that lacks a tensor of the model or holds it in another shape.

    Args:
        wanted: The model's state dict, of which the checkpoint must have everything.
        state: The checkpoint's.
        source: Where it comes from, for the message.
        prefix: Only keys that start with it count.

    Raises:
        ConfigError: Naming what does not fit.
    """
    missing, differing = compare_state(wanted, state, (prefix,))
    if not missing and not differing:
        return
    if not any(key.startswith('backbone.') for key in state) and 'backbone.' + next(iter(state)) in wanted:
        raise ConfigError(
            f'{source} holds a bare backbone. Load it with model.backbone.init_cfg='
            "dict(type='Pretrained', checkpoint=...) instead."
        )
    shown = '; '.join((differing + [f'{key} is missing' for key in missing])[:3])
    raise ConfigError(
        f'{source} is of another architecture: {len(missing)} tensors are missing and {len(differing)} have '
        f'another shape, such as {shown}. Use the config with which it was trained.'
    )
