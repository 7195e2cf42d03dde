"""ResNet for ImageNet as the released code of CDS runs it."""

from typing import Any

from mmpretrain.models.backbones import ResNet
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class UnpooledResNet(ResNet):
    """ResNet whose stem is not followed by max pooling; arguments and parameters of MMPretrain's ``ResNet``.

    The released ``resnet.py`` for ImageNet builds a max pooling and never calls it. Its stages then have maps with
    sides of 112, 56, 28 and 14 instead of 56, 28, 14 and 7 pixels for images of 224 pixels, and ResNet-18 costs 6.90 G
    multiply-adds per image instead of 1.81 G. Whether the paper's numbers come from this form is not known.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.maxpool = nn.Identity()
