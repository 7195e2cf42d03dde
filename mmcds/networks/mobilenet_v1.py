"""MobileNetV1, which MMPretrain lacks."""

from collections.abc import Sequence

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmpretrain.registry import MODELS
from torch import nn

from mmcds.networks.staged import KAIMING, StagedBackbone


@MODELS.register_module()
class MobileNetV1(StagedBackbone):
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

    stage_convs = (1, 2, 2, 6, 2)

    def __init__(
        self,
        stem_stride: int = 2,
        in_channels: int = 3,
        base_channels: int = 64,
        out_indices: Sequence[int] = (4,),
        norm_cfg: dict = dict(type='BN'),
        init_cfg: list[dict] = KAIMING,
    ) -> None:
        width = base_channels // 2
        stem = ConvModule(in_channels, width, 3, stem_stride, 1, norm_cfg=norm_cfg)
        stages = []
        for stage, count in enumerate(self.stage_convs):
            convs: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                wider = base_channels << stage
                convs.append(DepthwiseSeparableConvModule(width, wider, 3, stride, 1, norm_cfg=norm_cfg))
                width = wider
            stages.append(convs)
        super().__init__(stem, stages, out_indices, init_cfg)
