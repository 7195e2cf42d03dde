"""Export: a trained backbone without heads, in the layout of the library that will use it.

The file proves itself before it is written: its tensors are compared, name by name and shape by shape, with a
network that the target library builds from the same architecture, and in the layout of another library the outputs
of both networks too.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import Tensor

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import check_finite, file_sha256, load_training_checkpoint
from mmcds.openmmlab.layouts import build_network, convert, network_name, same_outputs
from mmcds.openmmlab.runner import inner_dataset
from mmcds.openmmlab.work_dir import put_in_place, write_whole
from mmcds.version import __version__

LAYOUTS = ('openmmlab', 'torchvision', 'timm')


def select_weights(checkpoint: dict[str, Any], ema: bool) -> dict[str, Tensor]:
    """Choose between averaged and raw weights.

    With MMEngine's ``EMAHook`` a checkpoint's ``state_dict`` holds the averaged weights and
    ``ema_state_dict`` the raw ones.

    Raises:
        ConfigError: If there are none, or if the raw weights are asked for and no EMA was used.
    """
    if ema:
        weights = checkpoint.get('state_dict')
        if not isinstance(weights, dict):
            raise ConfigError('the checkpoint holds no weights (state_dict). Name another file.')
        return {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    if 'ema_state_dict' not in checkpoint:
        raise ConfigError(
            'export with ema=False (--no-ema): the checkpoint was trained without EMAHook and holds '
            'one set of weights only. Leave the option out.'
        )
    return {
        key.removeprefix('module.'): value
        for key, value in checkpoint['ema_state_dict'].items()
        if key.startswith('module.')
    }


def export_backbone(
    checkpoint: str | Path,
    out: str | Path,
    *,
    ema: bool = True,
    layout: str = 'openmmlab',
    with_head: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a backbone, stripped of heads, supervisions and prefix, and a manifest beside it.

    Args:
        checkpoint: Checkpoint of a training run.
        out: File to write. ``.pth`` gives ``{'state_dict', 'meta'}`` that ``torch.load`` reads with
            ``weights_only=True``; ``.safetensors`` gives the tensors alone. The manifest is ``<out>.json``.
        ema: Averaged weights where the run kept them; False takes the raw ones.
        layout: ``openmmlab`` (MMPretrain and MMDetection share their names), ``torchvision`` or ``timm``.
        with_head: Also the classifier, for the last two layouts.
        overwrite: Replace files that exist.

    Returns:
        The manifest: architecture, normalisation, channel order, SHA-256 of the file, source.

    Raises:
        ConfigError: If the checkpoint has no backbone, the target library has no such network, it does not match
            tensor by tensor or computes something else, a file exists, or an option is unknown.
    """
    out = Path(out)
    _check_options(out, layout, with_head, overwrite)
    return write_backbone(out, *read_backbone(checkpoint, ema=ema, layout=layout, with_head=with_head))


def read_backbone(
    checkpoint: str | Path, *, ema: bool = True, layout: str = 'openmmlab', with_head: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and manifest of an export, which :func:`write_backbone` writes; see :func:`export_backbone`."""
    checkpoint = Path(checkpoint)
    loaded, config = load_training_checkpoint(checkpoint)
    state = _select_tensors(checkpoint, select_weights(loaded, ema), with_head)
    state = _fit_to_target(checkpoint, state, config, layout, with_head)
    manifest = dict(
        **_describe(state, config, layout, with_head),
        weights='ema' if ema and 'ema_state_dict' in loaded else 'raw',
        source=dict(
            file=checkpoint.name,
            sha256=file_sha256(checkpoint),
            epoch=loaded['meta'].get('epoch'),
            experiment=loaded['meta'].get('experiment_name'),
            mmcds=__version__,
        ),
    )
    return state, manifest


def _manifest_file(out: Path) -> Path:
    return out.with_name(f'{out.name}.json')


def _check_options(out: Path, layout: str, with_head: bool, overwrite: bool) -> None:
    """Refuse unknown options and files that exist, before anything is read."""
    if layout not in LAYOUTS:
        raise ConfigError(f'layout is {layout!r}; choose one of {", ".join(LAYOUTS)}.')
    if out.suffix not in ('.pth', '.safetensors'):
        raise ConfigError(f'{out} ends with {out.suffix!r}; end the name of the export with .pth or .safetensors.')
    if with_head and layout == 'openmmlab':
        raise ConfigError(
            'with_head is for the layouts torchvision and timm; in OpenMMLab the checkpoint itself '
            'is the classifier. Leave it out.'
        )
    for file in (out, _manifest_file(out)):
        if file.exists() and not overwrite:
            raise ConfigError(f'{file} exists and is not overwritten. Choose another name or give --overwrite.')


def _select_tensors(checkpoint: Path, weights: dict[str, Tensor], with_head: bool) -> dict[str, Tensor]:
    """Return the tensors of the backbone by their names in it, and those of a classifier as ``fc``."""
    state = {
        key.removeprefix('backbone.'): value.detach().clone().contiguous()
        for key, value in weights.items()
        if key.startswith('backbone.')
    }
    if not state:
        raise ConfigError(
            f'{checkpoint} has no key that starts with "backbone.", so there is no backbone to '
            f'export; its keys start with {sorted({key.split(".")[0] for key in weights})}.'
        )
    check_finite(state, checkpoint, 'tensors of the backbone')
    if with_head:
        head = {f'fc.{name}': weights.get(f'head.fc.{name}') for name in ('weight', 'bias')}
        if any(value is None for value in head.values()):
            raise ConfigError(f'{checkpoint} has no linear classifier head.fc. Export it without --with-head.')
        state.update({key: value.detach().clone() for key, value in head.items() if value is not None})
    return state


def _fit_to_target(
    checkpoint: Path, state: dict[str, Tensor], config: Config, layout: str, with_head: bool
) -> dict[str, Tensor]:
    """Bring tensors into a layout; compare names, shapes and outputs with the network that its library builds."""
    backbone = config.model.backbone.to_dict()
    name = '' if layout == 'openmmlab' else network_name(backbone, layout)
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.random.fork_rng(devices=[]):
        host = MODELS.build(backbone)
    wanted = host.state_dict()
    # a stage that a supervision taps by its number has a norm in some backbones, which nothing else needs
    state = {key: value for key, value in state.items() if key in wanted or not re.match(r'norm\d\.', key)}
    what = f'a {layout} {backbone["type"]}'
    _compare(checkpoint, {key: state[key] for key in state if not key.startswith('fc.')}, wanted, what)
    if not name:
        return state
    network = build_network(name, layout, len(state['fc.bias']) if with_head else 0)
    converted = convert(state, backbone, layout)
    _compare(checkpoint, converted, network.state_dict(), f'{name} of {layout}')
    side = backbone.get('img_size', 224) if hasattr(host, 'patch_embed') else 64  # Swin's images have one size
    if hasattr(host, 'pretrained_cfg'):
        side = host.pretrained_cfg['input_size'][-1]
    if not same_outputs(host, state, network, converted, side):
        raise ConfigError(
            f'{checkpoint}: with these weights {name} of {layout} computes something else than the backbone '
            f'{backbone}. Use the layout openmmlab.'
        )
    return converted


def _compare(checkpoint: Path, state: dict[str, Tensor], expected: dict[str, Tensor], target: str) -> None:
    """Compare names and shapes with those of the network that will read the file."""
    wrong = sorted(set(state) ^ set(expected)) + [
        key for key in set(state) & set(expected) if state[key].shape != expected[key].shape
    ]
    if wrong:
        raise ConfigError(
            f'{checkpoint}: the backbone does not fit {target}; {len(wrong)} tensors differ, such as '
            f'{", ".join(wrong[:3])}. Use the layout openmmlab, or check the config of the checkpoint.'
        )


def steps_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every transform in a pipeline, those within others too."""
    if isinstance(value, Mapping):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for each in inner:
        yield from steps_of(each)


def channel_order(config: Config) -> str:
    """Return the order of the channels that the network of a config sees, ``'rgb'`` or ``'bgr'``.

    Files are loaded as BGR. The arrays of MMPretrain's CIFAR are RGB, and its pipelines take them as they are.
    """
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    loader = config.get('test_dataloader') or config.get('train_dataloader') or {}
    dataset = inner_dataset(loader.get('dataset', {}))
    loads = any(
        str(step.get('type')).split('.')[-1].startswith('Load') for step in steps_of(dataset.get('pipeline', ()))
    )
    arrives_as_rgb = not loads and str(dataset.get('type')).split('.')[-1] in ('CIFAR10', 'CIFAR100')
    return 'rgb' if arrives_as_rgb != bool(preprocessor.get('to_rgb')) else 'bgr'


def _describe(state: dict[str, Tensor], config: Config, layout: str, with_head: bool) -> dict[str, Any]:
    """Return what a reader of the file has to know: architecture, normalisation, channel order, counts."""
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    statistics = ('running_mean', 'running_var', 'num_batches_tracked')
    return dict(
        architecture=config.model.backbone.to_dict(),
        layout=layout,
        with_head=with_head,
        normalisation=dict(mean=preprocessor.get('mean'), std=preprocessor.get('std'), range=[0, 255]),
        channel_order=channel_order(config),
        num_tensors=len(state),
        num_parameters=sum(value.numel() for key, value in state.items() if not key.endswith(statistics)),
    )


def write_backbone(out: Path, state: dict[str, Tensor], manifest: dict[str, Any]) -> dict[str, Any]:
    """Write tensors and manifest, each under a temporary name first, so that a name stands for a whole file.

    Returns:
        The manifest with the name and the SHA-256 of the file, as it is written beside it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f'.{out.name}.partial')
    if out.suffix == '.pth':
        torch.save(dict(state_dict=state, meta=manifest), partial)
    else:
        from safetensors.torch import save  # not save_file, which hides the file from other users

        partial.write_bytes(save(state, metadata={key: json.dumps(value) for key, value in manifest.items()}))
    put_in_place(partial, out)
    manifest = {'file': out.name, 'sha256': file_sha256(out), **manifest}
    write_whole(_manifest_file(out), json.dumps(manifest, indent=2) + '\n')
    return manifest
