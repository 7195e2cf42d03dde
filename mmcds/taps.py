"""Taps: the places of a backbone where supervisions listen (Section 5.4 of the paper varies them).

A tap is a stage number (the host's ``out_indices``) or the name of any module inside the backbone. Widths and
strides are measured by one forward pass without data, never typed by hand.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmcds.errors import ConfigError

Tap = int | str


def tap_name(tap: Tap) -> str:
    """Name of a tap in log and checkpoint keys: ``stage2``, or the module name with ``-`` for ``.``."""
    return f'stage{tap}' if isinstance(tap, int) else tap.replace('.', '-')


@dataclass(frozen=True)
class TapInfo:
    """Channels of a feature map, and by how much it is smaller than the image (side over side)."""

    channels: int
    stride: float


@dataclass(frozen=True)
class NetworkInfo:
    """What a supervision may know about the network when it creates its parameters.

    Attributes:
        name: Class name of the backbone, for messages.
        taps: Measured facts of each tap.
        final: The last stage, which feeds the classifier.
        num_classes: K, or None if the head does not say it.
        embeddings: Width D of what supervisions embed, by the name of the supervision and the tap. Filled for
            supervisions that name the others whose embeddings they read.
        teacher: The same facts of the teacher, or None.
        backbone: The network itself, for methods that build more of its own blocks. It is to be looked at in
            :meth:`mmcds.supervisions.Supervision.bind`, not to be kept.
    """

    name: str
    taps: dict[Tap, TapInfo]
    final: TapInfo
    num_classes: int | None
    embeddings: dict[str, Mapping[Tap, int]] = field(default_factory=dict)
    teacher: NetworkInfo | None = None
    backbone: nn.Module | None = field(default=None, repr=False, compare=False)


def as_map(value: Tensor | Sequence, tap: Tap) -> Tensor:
    """Bring the output of a tapped module to a map (M, C, H, W).

    Tokens (M, L, C), as in ViT and Swin, are laid out as a square; leading tokens that do not fit into it
    (class token) are dropped. A vector (M, C) becomes a 1 x 1 map. Of a tuple the first item counts.

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
        side = math.isqrt(value.shape[1])
        return value[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
    return value


class TappedBackbone:
    """Runs a backbone and returns its last output together with what the taps heard.

    Not a module: it holds no parameters, and the backbone keeps its own place in the checkpoint.

    Args:
        backbone: A host backbone; for stage numbers its ``out_indices`` must contain them.
        taps: Where to listen.

    Raises:
        ConfigError: If a tap is no stage and no module of the backbone.
    """

    def __init__(self, backbone: nn.Module, taps: Iterable[Tap]) -> None:
        self.taps = tuple(dict.fromkeys(taps))
        self.stages = tuple(getattr(backbone, 'out_indices', ()))
        modules = dict(backbone.named_modules())
        for tap in self.taps:
            if isinstance(tap, int) and tap not in self.stages:
                raise ConfigError(
                    f'{type(backbone).__name__} has no stage {tap}; its out_indices are '
                    f'{self.stages}. Use one of them, or the name of a module as the tap.'
                )
            if isinstance(tap, str) and (not tap or tap not in modules):
                near = difflib.get_close_matches(tap, modules, n=3, cutoff=0) if tap else list(modules)[1:4]
                raise ConfigError(
                    f'{type(backbone).__name__} has no module {tap!r} to tap; similar names: {", ".join(near)}.'
                )

    def __call__(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Run ``backbone`` on (M, 3, H, W); return its last output and the map of every tap."""
        heard: dict[Tap, Tensor] = {}
        versions: dict[Tap, int] = {}

        def listen(tap: str):
            def hook(module: nn.Module, args: tuple, output: Tensor | Sequence) -> None:
                heard[tap] = as_map(output, tap)
                if not torch.compiler.is_compiling():  # there, no tensor has versions; probe() has looked already
                    versions[tap] = heard[tap]._version

            return hook

        handles = [
            backbone.get_submodule(tap).register_forward_hook(listen(tap)) for tap in self.taps if isinstance(tap, str)
        ]
        try:
            outputs = backbone(images)
        finally:
            for handle in handles:
                handle.remove()
        for tap, version in versions.items():
            if heard[tap]._version != version:
                raise ConfigError(
                    f'tap {tap!r}: the next layer overwrites this output in place, so what '
                    'would be heard is not what the module put out. Tap the next layer.'
                )
        if len(outputs) < len(self.stages):
            raise ConfigError(
                f'{type(backbone).__name__} returned {len(outputs)} outputs for out_indices '
                f'{self.stages}; a tapped stage does not exist. Change the taps.'
            )
        for tap in self.taps:
            if isinstance(tap, int):
                heard[tap] = as_map(outputs[self.stages.index(tap)], tap)
            elif tap not in heard:
                raise ConfigError(
                    f'tap {tap!r}: this module did not run in the forward pass of '
                    f'{type(backbone).__name__}. Tap a module that does.'
                )
        return outputs[-1], heard

    @torch.no_grad()
    def probe(self, backbone: nn.Module, num_classes: int | None) -> NetworkInfo:
        """Measure channels and strides of every tap and of the last stage.

        A copy without data (device ``meta``) runs, so this costs nothing and leaves no trace in the backbone.
        """
        ghost = copy.deepcopy(backbone).to('meta')
        ghost.eval()
        conv = next((p for p in ghost.parameters() if p.ndim == 4), None)
        side = getattr(backbone, 'img_size', 224)
        height, width = (side, side) if isinstance(side, int) else side
        images = torch.zeros(
            1, 3 if conv is None else conv.shape[1], height, width, device='meta', dtype=next(ghost.parameters()).dtype
        )
        final, heard = self(ghost, images)

        def measure(value: Tensor) -> TapInfo:
            return TapInfo(channels=value.shape[1], stride=height / value.shape[2])

        return NetworkInfo(
            name=type(backbone).__name__,
            num_classes=num_classes,
            taps={tap: measure(value) for tap, value in heard.items()},
            final=measure(as_map(final, 'last output')),
            backbone=backbone,
        )


def build_backbone(backbone: dict | nn.Module, taps: Iterable[Tap]) -> nn.Module:
    """Build a backbone whose ``out_indices`` contain every tapped stage as well as its own last one.

    Args:
        backbone: Config, or a backbone that is built already and is taken as it is.
        taps: Stage numbers and module names; only the numbers matter here.

    Raises:
        ConfigError: If a number is no stage of this backbone.
    """
    stages = {tap for tap in taps if isinstance(tap, int)}
    if isinstance(backbone, nn.Module) or not stages:
        return backbone if isinstance(backbone, nn.Module) else MODELS.build(backbone)
    with torch.random.fork_rng(devices=[]):  # a look at its defaults must not change the random stream
        built = MODELS.build(backbone)
    own = getattr(built, 'out_indices', None)
    if own is None:
        raise ConfigError(
            f'{type(built).__name__} has no numbered stages, but taps {sorted(stages)} were '
            'asked for. Name modules of the backbone instead.'
        )
    count = getattr(built, 'num_stages', math.inf)
    wrong = sorted(stage for stage in stages if not 0 <= stage < count)
    if wrong:
        raise ConfigError(
            f'{type(built).__name__} has no stage {wrong[0]}; its stages are 0 to {count - 1}. Change the taps.'
        )
    return MODELS.build({**backbone, 'out_indices': tuple(sorted(stages | set(own)))})
