"""Forms of MMPretrain's networks for images of 32 pixels: another stem, and nothing else.

Residual networks get the stem of MMPretrain's ``ResNet_CIFAR``, one 3x3 convolution of stride 1 without pooling.
The mobile networks keep their stem's 3x3 convolution, with stride 1 and without pooling, so their parameters are
those of the ImageNet form, to the last shape. No stage changes its stride.
"""

from mmpretrain.models.backbones import (
    MobileNetV2,
    ResNet_CIFAR,
    ResNeXt,
    SEResNet,
    ShuffleNetV1,
    ShuffleNetV2,
)
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class ResNeXt_CIFAR(ResNeXt, ResNet_CIFAR):
    """ResNeXt with the stem of ``ResNet_CIFAR``; stages of stride 1, 2, 4 and 8."""


@MODELS.register_module()
class ShallowResNet_CIFAR(ResNet_CIFAR):
    """MMPretrain's ``ResNet_CIFAR`` with depth 10 too: one basic block in every stage."""

    arch_settings = {10: (BasicBlock, (1, 1, 1, 1)), **ResNet_CIFAR.arch_settings}


@MODELS.register_module()
class SEResNet_CIFAR(SEResNet, ResNet_CIFAR):
    """SE-ResNet with the stem of ``ResNet_CIFAR``; stages of stride 1, 2, 4 and 8."""


@MODELS.register_module()
class MobileNetV2_CIFAR(MobileNetV2):
    """MobileNetV2 whose first convolution has stride 1; the last stage has stride 16."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.conv1.conv.stride = (1, 1)


@MODELS.register_module()
class ShuffleNetV1_CIFAR(ShuffleNetV1):
    """ShuffleNetV1 whose stem keeps the resolution; stages of stride 2, 4 and 8."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.conv1.conv.stride = (1, 1)
        self.maxpool = nn.Identity()


@MODELS.register_module()
class ShuffleNetV2_CIFAR(ShuffleNetV2):
    """ShuffleNetV2 whose stem keeps the resolution; stages of stride 2, 4, 8 and 8."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.conv1.conv.stride = (1, 1)
        self.maxpool = nn.Identity()
