"""SE-ResNet of basic blocks: depths 18 and 34, which MMPretrain's SEResNet lacks."""

from mmpretrain.models.backbones import ResNet_CIFAR, SEResNet
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.models.utils import SELayer
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class SEBasicBlock(BasicBlock):
    """Basic block with squeeze and excitation before the addition.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        se_ratio: Output channels over channels of the squeezed vector.
        **kwargs: Of MMPretrain's basic block.
    """

    def __init__(self, in_channels: int, out_channels: int, se_ratio: int = 16, **kwargs) -> None:
        super().__init__(in_channels, out_channels, **kwargs)
        self.se_layer = SELayer(out_channels, ratio=se_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """Map (M, C_in, H, W) to (M, C_out, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.se_layer(self.norm2(self.conv2(out)))
        identity = x if self.downsample is None else self.downsample(x)
        return self.relu(self.drop_path(out) + identity)


@MODELS.register_module()
class SEResNetBasic(SEResNet):
    """SE-ResNet-18 and 34 (https://arxiv.org/abs/1709.01507); arguments of MMPretrain's ``SEResNet``."""

    arch_settings = {18: (SEBasicBlock, (2, 2, 2, 2)), 34: (SEBasicBlock, (3, 4, 6, 3))}


@MODELS.register_module()
class SEResNetBasic_CIFAR(SEResNetBasic, ResNet_CIFAR):
    """The same with the stem of MMPretrain's ``ResNet_CIFAR``."""
