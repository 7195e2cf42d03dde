"""Pre-activation ResNet; its stage outputs, and so the taps, come after BatchNorm and ReLU."""

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_norm_layer
from mmengine.model import Sequential
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.networks.staged import KAIMING


class PreActBlock(nn.Module):
    """Norm, ReLU and convolution, two or three times; the shortcut leaves after the first ReLU where it projects.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        expansion: 1 for two 3x3 convolutions, 4 for 1x1, 3x3 and 1x1.
        stride: Of the (first) 3x3 convolution.
        project: Whether the shortcut is a 1x1 convolution.
        norm_cfg: Normalisation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: int,
        project: bool,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        middle = out_channels // expansion
        # (kernel, stride, width that leaves it) of every convolution
        plan = [(3, stride, middle), (3, 1, out_channels)]
        if expansion > 1:
            plan = [(1, 1, middle), (3, stride, middle), (1, 1, out_channels)]
        self.count = len(plan)
        width = in_channels
        for number, (kernel, step, wider) in enumerate(plan, 1):
            self.add_module(f'norm{number}', build_norm_layer(norm_cfg, width)[1])
            self.add_module(f'conv{number}', nn.Conv2d(width, wider, kernel, step, kernel // 2, bias=False))
            width = wider
        self.relu = nn.ReLU()
        self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False) if project else None

    def activate(self, x: Tensor) -> Tensor:
        """Apply the first norm and ReLU, which activate what the stage before puts out."""
        return self.relu(self.get_submodule('norm1')(x))

    def shortcut(self, x: Tensor, activated: Tensor) -> Tensor:
        """Return ``x``, or the projection of what its first norm and ReLU make of it."""
        return x if self.downsample is None else self.downsample(activated)

    def add_to(self, x: Tensor, activated: Tensor) -> Tensor:
        """Add the residual of ``activated`` to the shortcut."""
        out = self.get_submodule('conv1')(activated)
        for number in range(2, self.count + 1):
            out = self.relu(self.get_submodule(f'norm{number}')(out))
            out = self.get_submodule(f'conv{number}')(out)
        return out + self.shortcut(x, activated)

    def forward(self, x: Tensor, both: bool = False) -> Any:
        """Map (M, C_in, H, W) to (M, C_out, H / stride, W / stride); with ``both``, and to the first ReLU's output."""
        activated = self.activate(x)
        out = self.add_to(x, activated)
        return (out, activated) if both else out


@MODELS.register_module()
class PreActResNet(BaseBackbone):
    """Identity mappings in deep residual networks (https://arxiv.org/abs/1603.05027).

    Parameters are those of timm's ``resnetv2_18``, ``34``, ``50`` and ``101``. What stage s puts out is what the
    first block of the next stage makes of it by BatchNorm and ReLU, so taps see non-negative maps as in a plain
    ResNet; the last stage is followed by the network's own BatchNorm and ReLU.

    Args:
        depth: 18, 34, 50 or 101.
        stem: ``'imagenet'``, a 7x7 convolution of stride 2 and max pooling, or ``'cifar'``, a 3x3 convolution.
        in_channels: Channels of the image.
        stem_channels: Width of the stem.
        base_channels: Width of the first stage, before expansion.
        strides: Stride of every stage.
        out_indices: Stages whose output is returned.
        norm_cfg: Normalisation.
        init_cfg: Weight initialisation.

    Raises:
        ConfigError: If depth or stem is unknown.
    """

    depths = {18: (1, (2, 2, 2, 2)), 34: (1, (3, 4, 6, 3)), 50: (4, (3, 4, 6, 3)), 101: (4, (3, 4, 23, 3))}
    num_stages = 4
    block_type = PreActBlock
    preactivation = True  # stages pass on maps that are not activated yet

    def __init__(
        self,
        depth: int,
        stem: str = 'imagenet',
        in_channels: int = 3,
        stem_channels: int = 64,
        base_channels: int = 64,
        strides: Sequence[int] = (1, 2, 2, 2),
        out_indices: Sequence[int] = (3,),
        norm_cfg: dict = dict(type='BN'),
        init_cfg: list[dict] = KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        if depth not in self.depths or stem not in ('imagenet', 'cifar'):
            raise ConfigError(
                f'PreActResNet: depth is {depth} and stem {stem!r}; choose a depth of '
                f"{', '.join(map(str, self.depths))} and the stem 'imagenet' or 'cifar'."
            )
        self.expansion, self.stage_blocks = self.depths[depth]
        self.norm_cfg, self.out_indices = norm_cfg, tuple(out_indices)
        if stem == 'imagenet':
            self.conv1 = nn.Conv2d(in_channels, stem_channels, 7, 2, 3, bias=False)
            self.maxpool: nn.Module = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv2d(in_channels, stem_channels, 3, 1, 1, bias=False)
            self.maxpool = nn.Identity()
        width = stem_channels
        self.res_layers = []
        for stage, (blocks, stride) in enumerate(zip(self.stage_blocks, strides, strict=True)):
            wider = base_channels * self.expansion << stage
            self.res_layers.append(f'layer{stage + 1}')
            self.add_module(
                self.res_layers[-1],
                self.make_res_layer(
                    num_blocks=blocks,
                    in_channels=width,
                    out_channels=wider,
                    expansion=self.expansion,
                    stride=stride,
                    norm_cfg=norm_cfg,
                ),
            )
            width = wider
        self.norm = build_norm_layer(norm_cfg, width)[1]
        self.relu: nn.Module = nn.ReLU()

    def make_res_layer(
        self,
        num_blocks: int,
        in_channels: int,
        out_channels: int,
        expansion: int,
        stride: int,
        norm_cfg: dict,
    ) -> nn.Module:
        """Build a stage."""
        return Sequential(
            *(
                self.block_type(
                    in_channels=out_channels if number else in_channels,
                    out_channels=out_channels,
                    expansion=expansion,
                    stride=1 if number else stride,
                    project=not number and (stride > 1 or in_channels != out_channels),
                    norm_cfg=norm_cfg,
                )
                for number in range(num_blocks)
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (M, 3, H, W) to the activated maps of ``out_indices``."""
        x = self.maxpool(self.conv1(x))
        outs = []
        for stage, name in enumerate(self.res_layers):
            first, *others = self.get_submodule(name)
            x, activated = first(x, both=True)
            if stage and stage - 1 in self.out_indices:
                outs.append(activated)
            for block in others:
                x = block(x)
        if self.num_stages - 1 in self.out_indices:
            outs.append(self.relu(self.norm(x)))
        return tuple(outs)
