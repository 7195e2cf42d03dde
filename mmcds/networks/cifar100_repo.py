"""The networks of the code base that CIFAR papers commonly use, where they differ from torchvision's and timm's.

github.com/weiaicunzai/pytorch-cifar100 has forms of its own of ten networks of the paper; the paper does not say which
forms it used. Here they have the names of our networks with ``_CIFAR100Repo``. ResNet and Wide ResNet are not among
them: its ResNet is MMPretrain's ``ResNet_CIFAR``, and it has no Wide ResNet-50. What differs:

- ResNeXt: the first 1x1 convolution of a block is grouped too, and ResNeXt-101 is as wide as ResNeXt-50 (32x4d).
- SE-ResNet: all convolutions have a bias, a ReLU stands before the squeeze, and the squeezed vector may be 4 wide.
- PreAct ResNet: all convolutions have a bias, the stem has BatchNorm and ReLU, the shortcut projects what is not
  activated, the stride of a bottleneck lies in its first convolution, and nothing follows the last stage.
- MobileNetV1: the 1x1 convolutions have a bias.
- MobileNetV2: all convolutions have a bias, the stem is a 1x1 convolution with padding 1, so that maps have sides of
  34, 17, 9 and 5 pixels, the first block expands too, and stage 6 (160 channels) keeps the resolution.
- ShuffleNetV1: all convolutions have a bias, and the first 1x1 convolution of stage 2 is grouped.
- ShuffleNetV2: all convolutions have a bias, the stem has no ReLU, and blocks of stride 2 are wider inside.

First weights are those of our other networks; the code base leaves them to PyTorch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import Sequential
from mmpretrain.models.backbones import ResNeXt
from mmpretrain.models.backbones.resnext import Bottleneck as ResNeXtBlock
from mmpretrain.models.backbones.seresnet import SEBottleneck
from mmpretrain.models.utils import SELayer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmcds.networks.cifar import ResNeXt_CIFAR, SEResNet_CIFAR
from mmcds.networks.mobilenet_v1 import MobileNetV1
from mmcds.networks.preact_resnet import PreActBlock, PreActResNet
from mmcds.networks.se_resnet import SEBasicBlock
from mmcds.networks.staged import StagedBackbone


def add_biases(module: nn.Module) -> None:
    """Give every convolution of a module a bias of zeros, if it has none."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.bias is None:
            part.bias = nn.Parameter(torch.zeros(part.out_channels))


class GroupedBottleneck(ResNeXtBlock):
    """Bottleneck of ResNeXt whose first convolution has groups too; arguments of MMPretrain's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv1 = nn.Conv2d(self.in_channels, self.mid_channels, 1, groups=self.groups, bias=False)


@MODELS.register_module()
class ResNeXt_CIFAR100Repo(ResNeXt_CIFAR):
    """ResNeXt-50 and 101 with grouped first convolutions; arguments of MMPretrain's ``ResNeXt``."""

    arch_settings = {depth: (GroupedBottleneck, blocks) for depth, (_, blocks) in ResNeXt.arch_settings.items()}


class SqueezeAfterReLU:
    """Block of an SE-ResNet with biases, and a ReLU between the last BatchNorm and the squeeze."""

    def __init__(self, in_channels: int, out_channels: int, se_ratio: int = 16, **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, se_ratio=se_ratio, **kwargs)  # type: ignore[call-arg]
        squeeze = SELayer(out_channels, squeeze_channels=out_channels // se_ratio)
        self.se_layer = nn.Sequential(nn.ReLU(), squeeze)
        add_biases(self)  # type: ignore[arg-type]


class SEBasicBlockRepo(SqueezeAfterReLU, SEBasicBlock):
    """The basic block of it."""


class SEBottleneckRepo(SqueezeAfterReLU, SEBottleneck):
    """The bottleneck of it."""


@MODELS.register_module()
class SEResNet_CIFAR100Repo(SEResNet_CIFAR):
    """SE-ResNet-18, 34, 50 and 101 with biases; arguments of MMPretrain's ``SEResNet``."""

    arch_settings = {
        18: (SEBasicBlockRepo, (2, 2, 2, 2)),
        34: (SEBasicBlockRepo, (3, 4, 6, 3)),
        50: (SEBottleneckRepo, (3, 4, 6, 3)),
        101: (SEBottleneckRepo, (3, 4, 23, 3)),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add_biases(self.conv1)


class PreActBlockRepo(PreActBlock):
    """Pre-activation block with biases, whose shortcut projects what comes in and is not activated.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: 1 for two 3x3 convolutions, 4 for 1x1, 3x3 and 1x1.
        stride: Of the first convolution.
        project: Whether the shortcut is a 1x1 convolution.
        norm_cfg: Normalisation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, stride: int, project: bool, norm_cfg: dict
    ) -> None:
        super().__init__(in_channels, out_channels, expansion, stride, project, norm_cfg)
        if expansion > 1:
            self.conv1.stride, self.conv2.stride = (stride, stride), (1, 1)  # type: ignore[assignment]
        add_biases(self)

    def shortcut(self, x: Tensor, activated: Tensor) -> Tensor:
        """Return ``x``, or its projection."""
        return x if self.downsample is None else self.downsample(x)


@MODELS.register_module()
class PreActResNet_CIFAR100Repo(PreActResNet):
    """PreAct ResNet with biases, an activated stem and nothing after the last stage.

    Taps of the stages before the last are activated by the next stage, as in :class:`PreActResNet`.

    Args:
        **kwargs: Of :class:`PreActResNet`; the stem is that for small images.
    """

    block_type = PreActBlockRepo

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(stem='cifar', **kwargs)
        add_biases(self.conv1)
        self.maxpool = nn.Sequential(nn.BatchNorm2d(self.conv1.out_channels), nn.ReLU())
        self.norm, self.relu = nn.Identity(), nn.Identity()


@MODELS.register_module()
class MobileNetV1_CIFAR100Repo(MobileNetV1):
    """MobileNetV1 for small images whose 1x1 convolutions have a bias; arguments of :class:`MobileNetV1`."""

    def __init__(self, stem_stride: int = 1, **kwargs: Any) -> None:
        super().__init__(stem_stride, **kwargs)
        for name, part in self.named_modules():
            if name.endswith('pointwise_conv'):
                add_biases(part)


def unit(
    in_channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    activation: type[nn.Module] | None = nn.ReLU,
) -> list[nn.Module]:
    """Return a convolution with bias, its BatchNorm, and its activation if it has one."""
    padding = kernel // 2 if padding is None else padding
    layers = [
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups),
        nn.BatchNorm2d(out_channels),
    ]
    return layers if activation is None else [*layers, activation()]


class InvertedResidual(nn.Module):
    """Expand, filter, shrink; added to the input where both have the same shape.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the 3x3 convolution.
        ratio: Width inside in widths of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, ratio: int) -> None:
        super().__init__()
        inside = ratio * in_channels
        self.residual = nn.Sequential(
            *unit(in_channels, inside, activation=nn.ReLU6),
            *unit(inside, inside, 3, stride, inside, activation=nn.ReLU6),
            *unit(inside, out_channels, activation=None),
        )
        self.added = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, C_in, H, W) to (M, C_out, H / stride, W / stride)."""
        return x + self.residual(x) if self.added else self.residual(x)


@MODELS.register_module()
class MobileNetV2_CIFAR100Repo(StagedBackbone):
    """MobileNetV2 in the form of the code base; stages as in MMPretrain's, the last one a 1x1 convolution.

    Args:
        out_indices: Stages whose output is returned.
    """

    #: Channels, blocks, stride and expansion of the stages.
    plan = ((16, 1, 1, 1), (24, 2, 2, 6), (32, 3, 2, 6), (64, 4, 2, 6), (96, 3, 1, 6), (160, 3, 1, 6), (320, 1, 1, 6))

    def __init__(self, out_indices: Sequence[int] = (7,)) -> None:
        stages, width = [], 32
        for channels, blocks, stride, ratio in self.plan:
            stage: list[nn.Module] = []
            for number in range(blocks):
                stage.append(InvertedResidual(width, channels, 1 if number else stride, ratio))
                width = channels
            stages.append(stage)
        stages.append(unit(width, 1280, activation=nn.ReLU6))
        super().__init__(Sequential(*unit(3, 32, padding=1, activation=nn.ReLU6)), stages, out_indices)


class GroupedShuffle(nn.Module):
    """Block of ShuffleNetV1: grouped 1x1, shuffle, 3x3 by channel, grouped 1x1.

    With stride 2 the input is pooled and stands beside the result instead of being added.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
        groups: Groups of the 1x1 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int = 3) -> None:
        super().__init__()
        inside, self.beside = out_channels // 4, stride > 1
        own = out_channels - in_channels if self.beside else out_channels
        self.residual = nn.Sequential(
            *unit(in_channels, inside, groups=groups),
            nn.ChannelShuffle(groups),
            *unit(inside, inside, 3, stride, inside, activation=None),
            *unit(inside, own, groups=groups, activation=None),
        )
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, C_in, H, W) to (M, C_out, H / stride, W / stride)."""
        out = self.residual(x)
        return (torch.cat([self.pool(x), out], 1) if self.beside else x + out).relu()


class SplitShuffle(nn.Module):
    """Block of ShuffleNetV2: two branches side by side, shuffled; with stride 1 one of them is the half of the input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        half, self.split = out_channels // 2, stride == 1
        width = half if self.split else in_channels
        shrink = partial(unit, width, half)
        filtered = unit(width, width, 3, stride, width, activation=None)
        self.residual = nn.Sequential(*unit(width, width), *filtered, *shrink())
        filtered = unit(width, width, 3, stride, width, activation=None)
        self.shortcut = nn.Identity() if self.split else nn.Sequential(*filtered, *shrink())
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, C_in, H, W) to (M, C_out, H / stride, W / stride)."""
        kept, passed = x.chunk(2, 1) if self.split else (x, x)
        return self.shuffle(torch.cat([self.shortcut(kept), self.residual(passed)], 1))


def shuffle_stages(block: type[nn.Module], widths: Sequence[int], width: int) -> list[list[nn.Module]]:
    """Return the three stages of a ShuffleNet, of 4, 8 and 4 blocks; the first block of each has stride 2."""
    stages = []
    for channels, blocks in zip(widths, (4, 8, 4), strict=True):
        stages.append([block(width, channels, 2), *(block(channels, channels, 1) for _ in range(blocks - 1))])
        width = channels
    return stages


@MODELS.register_module()
class ShuffleNetV1_CIFAR100Repo(StagedBackbone):
    """ShuffleNetV1 of three groups in the form of the code base; stages as in MMPretrain's.

    Args:
        out_indices: Stages whose output is returned.
    """

    def __init__(self, out_indices: Sequence[int] = (2,)) -> None:
        super().__init__(Sequential(*unit(3, 24, 3)), shuffle_stages(GroupedShuffle, (240, 480, 960), 24), out_indices)


@MODELS.register_module()
class ShuffleNetV2_CIFAR100Repo(StagedBackbone):
    """ShuffleNetV2 in the form of the code base; stages as in MMPretrain's, the last one a 1x1 convolution.

    Args:
        out_indices: Stages whose output is returned.
    """

    def __init__(self, out_indices: Sequence[int] = (3,)) -> None:
        stages = [*shuffle_stages(SplitShuffle, (116, 232, 464), 24), unit(464, 1024)]
        super().__init__(Sequential(*unit(3, 24, 3, activation=None)), stages, out_indices)
