"""What networks of a stem and numbered stages have in common: their names, first weights and outputs."""

from collections.abc import Sequence

from mmengine.model import Sequential
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

#: First weights of our networks.
KAIMING: list[dict] = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
]


class StagedBackbone(BaseBackbone):
    """A stem ``conv1`` and stages ``layer1``, ``layer2``, ..., whose outputs are the taps.

    Args:
        stem: First layers.
        stages: Layers of every stage, in order.
        out_indices: Stages whose output is returned.
        init_cfg: Weight initialisation.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[nn.Module]],
        out_indices: Sequence[int],
        init_cfg: list[dict] = KAIMING,
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = tuple(out_indices)
        self.num_stages = len(stages)
        self.conv1 = stem
        self.layers = [f'layer{number}' for number in range(1, len(stages) + 1)]
        for name, stage in zip(self.layers, stages, strict=True):
            self.add_module(name, Sequential(*stage))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (M, 3, H, W) to the maps of ``out_indices``."""
        x = self.conv1(x)
        outs = []
        for stage, name in enumerate(self.layers):
            x = self.get_submodule(name)(x)
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)
