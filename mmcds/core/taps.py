"""Taps: the places of a network where supervisions listen (Section 5.4 of the paper varies them).

A tap is a stage number (``out_indices`` of an OpenMMLab backbone) or the name of any module. Widths and strides are
measured by one forward pass without data, never typed by hand.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.measure import (
    LARGER,
    Call,
    calls_of,
    calls_on_larger,
    calls_without_data,
    channels_last_taps,
    ghost_of,
    has_pooled_early,
    is_channels_last,
)
from mmcds.core.outputs import Tap, tap_name

__all__ = [
    'NetworkInfo',
    'Tap',
    'TapInfo',
    'TappedBackbone',
    'as_map',
    'last_map',
    'listen',
    'measure_map',
    'tap_name',
]


@dataclass(frozen=True)
class TapInfo:
    """Channels of a feature map, and by how much it is smaller than the image (side over side)."""

    channels: int
    stride: float


@dataclass(frozen=True)
class NetworkInfo:
    """What a supervision may know about the network when it creates its parameters.

    Attributes:
        name: Class name of the network, for messages.
        taps: Measured facts of each tap.
        final: The last feature map, which feeds the classifier.
        num_classes: K, or None if the classifier does not say it.
        pooled_channels: Width of the classifier's input; if it is not given, that of the last feature map.
        embeddings: Width D of what supervisions embed, by the name of the supervision and the tap. Filled for
            supervisions that name the others whose embeddings they read.
        teacher: The same facts of the teacher, or None.
        backbone: The network itself, for methods that build more of its own blocks. It is to be looked at in
            :meth:`mmcds.core.Supervision.build`, not to be kept.
    """

    name: str
    taps: dict[Tap, TapInfo]
    final: TapInfo
    num_classes: int | None
    pooled_channels: int = 0
    embeddings: dict[str, Mapping[Tap, int]] = field(default_factory=dict)
    teacher: NetworkInfo | None = None
    backbone: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, 'pooled_channels', self.pooled_channels or self.final.channels)


#: Numbers of tokens that are no part of the image: none, class token, distillation token as well, four registers too.
LEADING_TOKENS = (0, 1, 2, 5)


def as_map(value: Tensor | Sequence, tap: Tap, image_size: Sequence[int], channels_last: bool = False) -> Tensor:
    """Return the output of a tapped module as a map (M, C, H, W).

    Tokens (M, L, C), as in ViT, are laid out in rows as the patches of the image were; leading tokens
    (class token, registers) are dropped. A vector (M, C) becomes a 1 x 1 map. Of a tuple the first item counts.

    Args:
        value: Output of the module.
        tap: Its name, for messages.
        image_size: Height and width of the images, which say how tokens are laid out.
        channels_last: Whether the module puts out maps (M, H, W, C).

    Raises:
        ConfigError: If there is no such reading.
    """
    if isinstance(value, tuple | list):
        value = value[0]
    if not isinstance(value, Tensor) or value.ndim not in (2, 3, 4):
        what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(
            f'tap {tap!r} puts out {what}; a map (M, C, H, W), tokens (M, L, C) or a vector '
            '(M, C) is needed. Tap a module whose output is one of these.'
        )
    if value.ndim == 2:
        return value[..., None, None]
    if value.ndim == 3:
        height, width = _grid(value.shape[1], tap, image_size)
        return value[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
    return value.permute(0, 3, 1, 2) if channels_last else value


def _grid(tokens: int, tap: Tap, image_size: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of the patches, which have the proportions of the image."""
    ratio = image_size[1] / image_size[0]
    for leading in LEADING_TOKENS:
        patches = tokens - leading
        height = round((patches / ratio) ** 0.5) if patches > 0 else 0
        if height and patches % height == 0 and abs(patches - ratio * height**2) < height * (1 - 1e-6):
            return height, patches // height
    raise ConfigError(
        f'tap {tap!r} puts out {tokens} tokens, which are no grid with the proportions of images of '
        f'{image_size[0]} x {image_size[1]} pixels, nor one after {LEADING_TOKENS[1:]} leading tokens. Tap a module '
        'whose output is a map (M, C, H, W).'
    )


@contextmanager
def listen(
    network: nn.Module, taps: Iterable[str], image_size: Sequence[int], channels_last: Collection[str] = ()
) -> Iterator[dict[Tap, Tensor]]:
    """Collect the maps of named modules from the forward pass that runs within this context.

    Args:
        network: What runs.
        taps: Names of its modules.
        image_size: Height and width of the images.
        channels_last: Those that put out maps (M, H, W, C).

    Raises:
        ConfigError: On leaving, if a module did not run, or if a later layer overwrote its output in place.
    """
    features: dict[Tap, Tensor] = {}
    versions: dict[Tap, int] = {}

    def hook_of(tap: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor | Sequence) -> None:
            found = features[tap] = as_map(output, tap, image_size, tap in channels_last)
            if not torch.compiler.is_compiling() and not found.is_inference():  # tensors without versions
                versions[tap] = found._version

        return hook

    taps = tuple(taps)
    handles = [network.get_submodule(tap).register_forward_hook(hook_of(tap)) for tap in taps]
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
    for tap, version in versions.items():
        if features[tap]._version != version:
            raise ConfigError(
                f'tap {tap!r}: the next layer overwrites this output in place, so its features '
                'would not be what the module put out. Tap the next layer.'
            )
    for tap in taps:
        if tap not in features:
            raise ConfigError(
                f'tap {tap!r}: this module did not run in the forward pass of '
                f'{type(network).__name__}. Tap a module that does.'
            )


def check_module_names(network: nn.Module, taps: Iterable[Tap]) -> None:
    """Check that every named tap is a module of the network.

    Raises:
        ConfigError: With similar names, if one is not.
    """
    modules = dict(network.named_modules())
    for tap in taps:
        if isinstance(tap, str) and (not tap or tap not in modules):
            near = difflib.get_close_matches(tap, modules, n=3, cutoff=0) if tap else list(modules)[1:4]
            raise ConfigError(
                f'{type(network).__name__} has no module {tap!r} to tap; similar names: {", ".join(near)}.'
            )


def measure_map(value: Tensor, image_size: Sequence[int]) -> TapInfo:
    """Return channels and stride of a map (1, C, H, W)."""
    return TapInfo(channels=value.shape[1], stride=image_size[0] / value.shape[2])


def last_map(calls: Sequence[Call], ghost: nn.Module, images: Tensor) -> TapInfo | None:
    """Return the last map that some modules put out before all is averaged; None if there is none.

    Args:
        calls: What ran on ``images``.
        ghost: The network, see :func:`mmcds.core.measure.ghost_of`.
        images: See there.
    """
    # 1. The last output of more than one pixel is it, in most networks.
    # 2. But the last stage makes one pixel of a small image, and some networks pool to more than one. Where one of
    #    these is seen, the network runs on a larger image too: maps grow with it, what was pooled does not.
    maps, image_size = [], images.shape[2:]
    for call in calls:
        if call.name and isinstance(call.output, Tensor) and call.output.ndim in (3, 4):
            last = is_channels_last(call.module, call.output, image_size)
            try:
                maps.append((call.name, as_map(call.output, call.name, image_size, last)))
            except ConfigError:
                continue
    found = [value for _, value in maps if value.shape[2] * value.shape[3] > 1]
    if has_pooled_early(calls):
        sides: dict[str, list[int]] = {}
        for call in calls_on_larger(ghost, images):
            if isinstance(call.output, Tensor) and call.output.ndim == 4:
                sides.setdefault(call.name, []).append(call.output.shape[2])
        grown = [
            value
            for name, value in maps
            if sides.get(name) and LARGER / 2 <= sides[name].pop(0) / value.shape[2] <= 2 * LARGER
        ]
        found = grown or found
    return measure_map(found[-1], image_size) if found else None


class TappedBackbone:
    """Runs an OpenMMLab backbone and returns its last output together with the features of the taps.

    Not a module: it holds no parameters, and the backbone keeps its own place in the checkpoint.

    Args:
        backbone: A backbone that returns a tuple of stage outputs; for stage numbers its ``out_indices`` must contain
            them.
        taps: Where to listen.

    Raises:
        ConfigError: If a tap is no stage and no module of the backbone.
    """

    def __init__(self, backbone: nn.Module, taps: Iterable[Tap]) -> None:
        self.taps = tuple(dict.fromkeys(taps))
        self.stages = tuple(getattr(backbone, 'out_indices', ()))
        for tap in self.taps:
            if isinstance(tap, int) and tap not in self.stages:
                raise ConfigError(
                    f'{type(backbone).__name__} has no stage {tap}; its out_indices are '
                    f'{self.stages}. Use one of them, or the name of a module as the tap.'
                )
        check_module_names(backbone, self.taps)
        names = [tap for tap in self.taps if isinstance(tap, str)]
        self.channels_last: frozenset[str] = frozenset()
        if names:
            *calls, whole = calls_without_data(backbone)
            self.channels_last = channels_last_taps(calls, names, whole.given[0].shape[2:])

    def __call__(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Run ``backbone`` on (M, 3, H, W); return its last output and the map of every tap."""
        size = images.shape[2:]
        names = (tap for tap in self.taps if isinstance(tap, str))
        with listen(backbone, names, size, self.channels_last) as features:
            outputs = backbone(images)
        if len(outputs) < len(self.stages):
            raise ConfigError(
                f'{type(backbone).__name__} returned {len(outputs)} outputs for out_indices '
                f'{self.stages}; a tapped stage does not exist. Change the taps.'
            )
        for tap in self.taps:
            if isinstance(tap, int):
                features[tap] = as_map(outputs[self.stages.index(tap)], tap, size)
        return outputs[-1], features

    @torch.no_grad()
    def measure(self, backbone: nn.Module, num_classes: int | None) -> NetworkInfo:
        """Measure channels and strides of every tap and of the last stage.

        A copy without data runs, so this costs nothing and changes nothing in the backbone. Where its last output is
        a vector, the last stage is the last map before it.
        """
        ghost, images = ghost_of(backbone)
        size = images.shape[2:]
        with calls_of(ghost) as calls:
            output, features = self(ghost, images)
        final = measure_map(as_map(output, 'last output', size), size)
        width = final.channels
        if isinstance(output, Tensor) and output.ndim == 2:
            final = last_map(calls, ghost, images) or final
        return NetworkInfo(
            name=type(backbone).__name__,
            num_classes=num_classes,
            taps={tap: measure_map(value, size) for tap, value in features.items()},
            final=final,
            pooled_channels=width,
            backbone=backbone,
        )
