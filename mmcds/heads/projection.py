"""Projection heads c_i of Section 3.3: from a stage's feature map to an embedding of unit length."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import at_least_float32, build_norm, init_heads
from mmcds.core.outputs import Tap, tap_name
from mmcds.core.registry import MODELS

HEADS = ('sepconv', 'sepconv+mlp', 'mlp')
#: Rows shorter than this are divided by it instead of by their length: the gradient of an all-zero feature is finite.
EPS = 1e-6


class _EveryNth(torch.autograd.Function):
    """Every n-th row and column of a map. The gradient has the map's layout; that of a slice has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: int) -> Tensor:
        ctx.shape, ctx.stride, ctx.step = x.shape, x.stride(), step
        return x[:, :, ::step, ::step].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        whole = grad.new_empty_strided(ctx.shape, ctx.stride).zero_()
        whole[:, :, :: ctx.step, :: ctx.step] = grad
        return whole, None


class DepthwiseConv(nn.Conv2d):
    """Depthwise 3x3 convolution without bias, padded by 1; maps (M, C, H, W) to (M, C, ceil(H / s), ceil(W / s)).

    With a stride, in bfloat16 on a CPU, all places are computed and every s-th is kept: oneDNN 3.12 has only its
    reference code for the gradient of the strided case, which takes ten to a hundred times as long.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        dtype = torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else x.dtype
        if x.device.type != 'cpu' or dtype != torch.bfloat16 or self.stride == (1, 1):
            return super().forward(x)
        return _EveryNth.apply(F.conv2d(x, self.weight, padding=self.padding, groups=self.groups), self.stride[0])


class GlobalAvgPool(nn.Module):
    """Mean of every channel; maps (M, C, H, W) to (M, C, 1, 1). The gradient has the layout of the map.

    That of PyTorch's own pooling is always contiguous: with maps in channels_last, ReLU and batch norm before it then
    take more than twice as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average."""
        if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
            return x.mean((2, 3), keepdim=True)
        return x.permute(0, 2, 3, 1).flatten(1, 2).mean(1)[:, :, None, None]


class SepConv(nn.Sequential):
    """Two depthwise-separable 3x3 convolutions; the first one halves the resolution.

    Depthwise stride 2, pointwise C_in to C_in, norm, ReLU, depthwise stride 1, pointwise C_in to C_out, norm,
    ReLU; no bias. With BatchNorm it has ``20 C_in + C_in^2 + C_in C_out + 2 C_out`` parameters.

    Maps (M, C_in, H, W) to (M, C_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: dict) -> None:
        layers: list[nn.Module] = []
        for stride, width in ((2, in_channels), (1, out_channels)):
            layers += [
                DepthwiseConv(in_channels, stride),
                nn.Conv2d(in_channels, width, 1, bias=False),
                build_norm(norm_cfg, width),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


def sepconv_trunk(
    channels: int, stride: float, final_channels: int, final_stride: float, norm_cfg: dict
) -> tuple[list[nn.Module], int]:
    """Build one :class:`SepConv` for every halving that still separates a stage from the last one.

    Args:
        channels: C_s of the stage; every layer doubles it, the last one gives ``final_channels``.
        stride: Image side over map side of the stage.
        final_channels: Width of the last stage.
        final_stride: Stride of the last stage.
        norm_cfg: Normalisation of the layers.

    Returns:
        The layers, none if the stage is as small as the last one, and the width that leaves them.
    """
    layers: list[nn.Module] = []
    for left in reversed(range(round(math.log2(max(final_stride / stride, 1))))):
        wider = min(2 * channels, final_channels) if left else final_channels
        layers.append(SepConv(channels, wider, norm_cfg))
        channels = wider
    return layers, channels


@MODELS.register
class CDSNeck(nn.Module):
    """One projection head per tap; used in training only.

    ``sepconv`` is what the released code does: one :class:`SepConv` for every halving that still separates the
    stage from the last one, doubling the width each time and ending at the last stage's width; then global
    average pooling. On the last stage it is the pooled feature itself. ``sepconv+mlp`` adds the non-linear
    projection of the paper's text, Linear - ReLU - Linear. ``mlp`` is that projection on the pooled map alone.

    With taps (0, 1, 2, 3) ``sepconv`` has 726,528 parameters on ResNet-18/34 and 11,311,104 on ResNet-50.

    Args:
        taps: Names of the heads, one per entry of ``in_channels``.
        in_channels: C_s of every tap.
        strides: Image side over map side of every tap.
        final_channels: Width of the last stage. Defaults to the last of ``in_channels``.
        final_stride: Stride of the last stage. Defaults to the last of ``strides``.
        head: ``'sepconv'``, ``'sepconv+mlp'`` or ``'mlp'``.
        hidden_channels: Width between the two linear layers. Defaults to ``final_channels``.
        out_channels: Embedding width D of the forms with a projection.
        norm_cfg: Normalisation inside :class:`SepConv`.

    Raises:
        ConfigError: If the form of the head is unknown or the three sequences differ in length.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        in_channels: Sequence[int],
        strides: Sequence[float],
        final_channels: int | None = None,
        final_stride: float | None = None,
        head: str = 'sepconv',
        hidden_channels: int | None = None,
        out_channels: int = 128,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ConfigError(f'CDSNeck: head is {head!r}; choose one of {", ".join(HEADS)}.')
        if not len(taps) == len(in_channels) == len(strides):
            raise ConfigError(
                f'CDSNeck: taps, in_channels and strides have {len(taps)}, {len(in_channels)} and '
                f'{len(strides)} entries; give one of each per tap.'
            )
        final_channels = final_channels or in_channels[-1]
        final_stride = final_stride or strides[-1]
        self.heads = nn.ModuleDict()
        self.out_channels: list[int] = []  # D_s of every tap
        for tap, width, stride in zip(taps, in_channels, strides, strict=True):
            layers: list[nn.Module] = []
            if head != 'mlp':
                layers, width = sepconv_trunk(width, stride, final_channels, final_stride, norm_cfg)
            layers += [GlobalAvgPool(), nn.Flatten()]
            if head != 'sepconv':
                hidden = hidden_channels or final_channels
                layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out_channels)]
            self.heads[tap_name(tap)] = nn.Sequential(*layers)
            self.out_channels.append(width if head == 'sepconv' else out_channels)

    def init_weights(self) -> None:
        """Draw the first weights as the released code does: Kaiming-normal convolutions, fan out."""
        init_heads(self)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project every tap's map (M, C_s, H_s, W_s) to rows of unit length (M, D_s), at least float32."""
        rows = [head(feature) for head, feature in zip(self.heads.values(), features, strict=True)]
        if len(set(self.out_channels)) == 1:  # at once: a GPU launches a quarter of the kernels
            return list(F.normalize(at_least_float32(torch.stack(rows)), dim=2, eps=EPS).unbind())
        return [F.normalize(at_least_float32(row), dim=1, eps=EPS) for row in rows]
