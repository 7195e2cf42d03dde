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
from mmcds.networks.cifar100_repo import (
    MobileNetV1_CIFAR100Repo,
    MobileNetV2_CIFAR100Repo,
    PreActResNet_CIFAR100Repo,
    ResNeXt_CIFAR100Repo,
    SEResNet_CIFAR100Repo,
    ShuffleNetV1_CIFAR100Repo,
    ShuffleNetV2_CIFAR100Repo,
)
from mmcds.networks.mobilenet_v1 import MobileNetV1
from mmcds.networks.preact_resnet import PreActResNet
from mmcds.networks.se_resnet import SEResNetBasic, SEResNetBasic_CIFAR
from mmcds.networks.timm_stages import timm_stages
from mmcds.networks.unpooled_resnet import UnpooledResNet

__all__ = [
    'MobileNetV1',
    'MobileNetV1_CIFAR100Repo',
    'MobileNetV2_CIFAR',
    'MobileNetV2_CIFAR100Repo',
    'PreActResNet',
    'PreActResNet_CIFAR100Repo',
    'ResNeXt_CIFAR',
    'ResNeXt_CIFAR100Repo',
    'SEResNetBasic',
    'SEResNetBasic_CIFAR',
    'SEResNet_CIFAR',
    'SEResNet_CIFAR100Repo',
    'ShallowResNet_CIFAR',
    'ShuffleNetV1_CIFAR',
    'ShuffleNetV1_CIFAR100Repo',
    'ShuffleNetV2_CIFAR',
    'ShuffleNetV2_CIFAR100Repo',
    'UnpooledResNet',
    'timm_stages',
]
