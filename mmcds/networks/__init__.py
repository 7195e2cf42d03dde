"""Networks of the paper that MMPretrain lacks, and forms of MMPretrain's networks for small images."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from mmcds.networks.cifar import (
    MobileNetV2_CIFAR,
    ResNeXt_CIFAR,
    SEResNet_CIFAR,
    ShallowResNet_CIFAR,
    ShuffleNetV1_CIFAR,
    ShuffleNetV2_CIFAR,
)
from mmcds.networks.mobilenet_v1 import MobileNetV1
from mmcds.networks.preact_resnet import PreActResNet
from mmcds.networks.se_resnet import SEResNetBasic, SEResNetBasic_CIFAR

__all__ = [
    'MobileNetV1',
    'MobileNetV2_CIFAR',
    'PreActResNet',
    'ResNeXt_CIFAR',
    'SEResNetBasic',
    'SEResNetBasic_CIFAR',
    'SEResNet_CIFAR',
    'ShallowResNet_CIFAR',
    'ShuffleNetV1_CIFAR',
    'ShuffleNetV2_CIFAR',
]
