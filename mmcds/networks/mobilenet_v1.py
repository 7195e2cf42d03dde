"""MobileNetV1, which MMPretrain lacks."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmengine.model import Sequential
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class MobileNetV1(BaseBackbone):
    """Depthwise-separable convolutions in five stages (https://arxiv.org/abs/1704.04861).

    The stages have 64, 128, 256, 512 and 1024 channels and strides 2, 4, 8, 16 and 32, half of that with
    ``stem_stride=1``, the form for small images. Parameters are those of timm's ``mobilenetv1_100``.

    Args:
        stem_stride: Stride of the first convolution.
        in_channels: Channels of the image.
        base_channels: Width of the first stage.
        out_indices: Stages whose output is returned.
        norm_cfg: Normalisation.
        init_cfg: Weight initialisation.
    """

    num_stages = 5
    stage_convs = (1, 2, 2, 6, 2)

    def __init__(
        self,
        stem_stride: int = 2,
        in_channels: int = 3,
        base_channels: int = 64,
        out_indices: Sequence[int] = (4,),
        norm_cfg: dict = dict(type='BN'),
        init_cfg: list[dict] = [
            dict(type='Kaiming', layer=['Conv2d']),
            dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
        ],
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        width = base_channels // 2
        self.conv1 = ConvModule(in_channels, width, 3, stem_stride, 1, norm_cfg=norm_cfg)
        self.layers = []
        for stage, count in enumerate(self.stage_convs):
            convs = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                wider = base_channels << stage
                convs.append(DepthwiseSeparableConvModule(width, wider, 3, stride, 1, norm_cfg=norm_cfg))
                width = wider
            self.layers.append(f'layer{stage + 1}')
            self.add_module(self.layers[-1], Sequential(*convs))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (M, 3, H, W) to the maps of ``out_indices``."""
        x = self.conv1(x)
        outs = []
        for stage, name in enumerate(self.layers):
            x = self.get_submodule(name)(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)
