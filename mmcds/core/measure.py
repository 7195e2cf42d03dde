"""Measuring a network on an image without data: which modules run, and what they put out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

#: How much larger the larger image is on which a network is measured where one size does not tell its last map.
LARGER = 4
#: Layers that change no shape: PyTorch takes longer to say so than for all others of a network together.
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Call:
    """A module that ran.

    Attributes:
        name: Of the module; empty for the network itself.
        module: It.
        given: Its positional arguments.
        output: What it put out.
    """

    name: str
    module: nn.Module
    given: tuple
    output: Any


@contextmanager
def calls_of(network: nn.Module) -> Iterator[list[Call]]:
    """Collect the modules of a network that run within this context, in the order in which they end."""
    calls: list[Call] = []

    def hook_of(name: str) -> Callable:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            calls.append(Call(name, module, args, output))

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in network.named_modules()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def ghost_of(network: nn.Module, image_size: Sequence[int] | None = None) -> tuple[nn.Module, Tensor]:
    """Return a copy of a network without data (device ``meta``), in eval mode, and one image for it.

    Args:
        network: The network.
        image_size: Height and width. Defaults to ``img_size`` of the network, else 224.
    """
    copies: dict[int, Any] = {}  # of parameters and buffers, so that no data is copied
    for part in (*network.parameters(), *network.buffers()):
        bare = torch.empty_like(part, device='meta', requires_grad=False)
        copies[id(part)] = nn.Parameter(bare, part.requires_grad) if isinstance(part, nn.Parameter) else bare
    ghost = copy.deepcopy(network, copies).to('meta')  # with what modules move beside these
    ghost.eval()
    for module in ghost.modules():
        if type(module) in NORMS:
            module.forward = partial(_norm, module)
    first = next((p for p in ghost.parameters() if p.ndim == 4), None)
    side = getattr(network, 'img_size', 224) if image_size is None else image_size
    height, width = (side, side) if isinstance(side, int) else side
    channels = 3 if first is None else first.shape[1]
    dtype = next(ghost.parameters()).dtype
    return ghost, torch.zeros(1, channels, height, width, device='meta', dtype=dtype)


def _norm(module: Any, value: Tensor) -> Tensor:
    """Return what a norm puts out, without its data; its own forward pass refuses other channels than it has."""
    fits = value.ndim > 1 and value.shape[1] == module.num_features
    return torch.empty_like(value) if fits else type(module).forward(module, value)


@torch.no_grad()
def calls_without_data(network: nn.Module) -> list[Call]:
    """Return what runs on one image when a copy of a network does without data; the network itself comes last."""
    ghost, images = ghost_of(network)
    with calls_of(ghost) as calls:
        ghost(images)
    return calls


@torch.no_grad()
def calls_on_larger(ghost: nn.Module, images: Tensor) -> list[Call]:
    """Return what runs on an image :data:`LARGER` times as large; nothing if the network takes no other size.

    Args:
        ghost: See :func:`ghost_of`; a copy of it runs.
        images: See there. (1, C, H, W).
    """
    height, width = images.shape[2:]
    ghost = copy.deepcopy(ghost)
    with calls_of(ghost) as calls:
        try:
            ghost(images.new_zeros(*images.shape[:2], LARGER * height, LARGER * width))
        except Exception:  # whatever a network says about a size that it does not take
            return []
    return calls


def has_pooled_early(calls: Iterable[Call]) -> bool:
    """Return whether a last map is not told by its size: convolutions make one pixel, or pooling more than one."""
    for call in calls:
        if call.name and isinstance(call.output, Tensor) and call.output.ndim == 4:
            pixels = call.output.shape[2] * call.output.shape[3]
            if pixels == 1 and any(
                isinstance(each, _ConvNd) and max(each.kernel_size) > 1 for each in call.module.modules()
            ):
                return True
            if pixels > 1 and isinstance(call.module, _AdaptiveAvgPoolNd | _AdaptiveMaxPoolNd):
                return True
    return False


def is_channels_last(module: nn.Module, output: Any, image_size: Sequence[int]) -> bool:
    """Return whether a module puts out maps (M, H, W, C), as those of Swin in timm and torchvision do.

    It does if it has linear layers or LayerNorm and no convolution, and the map has the proportions of the image in
    this order; a map that has them in both orders needs a linear layer.

    Args:
        module: The module.
        output: What it put out; of a tuple the first item counts.
        image_size: Height and width of the image.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        return False
    one, two, three = output.shape[1:]
    if not _fits(one, two, image_size):
        return False
    kinds = (nn.Linear,) if _fits(two, three, image_size) else (nn.Linear, nn.LayerNorm)
    parts = list(module.modules())
    return any(isinstance(part, kinds) for part in parts) and not any(isinstance(part, _ConvNd) for part in parts)


def _fits(height: int, width: int, image_size: Sequence[int]) -> bool:
    """Return whether a map has the proportions of the image; its sides may be rounded."""
    return abs(width * image_size[0] - height * image_size[1]) < image_size[0] + image_size[1]


def channels_last_taps(calls: Iterable[Call], taps: Iterable[str], image_size: Sequence[int]) -> frozenset[str]:
    """Return the taps whose modules put out maps (M, H, W, C)."""
    wanted = set(taps)
    return frozenset(
        call.name for call in calls if call.name in wanted and is_channels_last(call.module, call.output, image_size)
    )
