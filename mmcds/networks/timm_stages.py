"""Any network of timm as a backbone whose stages are those that timm names, with timm's own names of tensors."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, initialize
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from mmcds.core.errors import ConfigError, did_you_mean


class _Stages(BaseModule):
    """What a network of timm lacks to be a backbone of OpenMMLab; a subclass of this and of its class has both."""

    out_indices: tuple[int, ...]

    def init_weights(self) -> None:
        """Load what ``init_cfg`` names; timm has drawn the first weights already."""
        if self.init_cfg:
            initialize(self, self.init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (M, 3, H, W) to the maps of ``out_indices`` and, last, what timm would classify, (M, C)."""
        network: Any = self
        if not self.out_indices:
            return (network.forward_head(network.forward_features(x)),)
        last, maps = network.forward_intermediates(x, indices=list(self.out_indices))
        return (*maps, network.forward_head(last))


@MODELS.register_module('TimmStages')
def timm_stages(
    model_name: str, out_indices: Sequence[int] = (), init_cfg: dict | list[dict] | None = None, **options: Any
) -> nn.Module:
    """Build a network of timm without its classifier.

    Its stages are the entries of timm's ``feature_info``; the tokens of transformers are laid out as maps. The names
    of tensors and modules are those of ``timm.create_model(model_name, num_classes=0)``. Nothing is downloaded.

    Args:
        model_name: As in ``timm.create_model``, such as ``'resnet18'`` or ``'resnet18.a1_in1k'``.
        out_indices: Stages whose maps are put out, in rising order, before the feature that is classified.
        init_cfg: Weights to start from; by default timm's random ones.
        options: Further arguments of ``timm.create_model``, such as ``drop_path_rate``.

    Raises:
        ConfigError: If timm is not installed, or has no such network, or that no such stage.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError(f'the network timm/{model_name} needs the package timm: pip install timm.') from error
    known = [*timm.list_models(), *timm.list_models(pretrained=True)]
    if model_name not in known:
        hint = did_you_mean(model_name, known, 'timm.list_models() lists them.')
        raise ConfigError(f'timm has no network {model_name!r}. {hint}')
    network: Any = timm.create_model(model_name, pretrained=False, num_classes=0, **options)
    count = len(network.feature_info)
    for stage in out_indices:
        if not 0 <= stage < count:
            raise ConfigError(f'timm/{model_name} has no stage {stage}; its stages are 0 to {count - 1}.')
    kind = type(network)
    network.__class__ = type(f'Timm{kind.__name__}', (_Stages, kind), {'__module__': __name__})
    network.out_indices, network.num_stages = tuple(sorted(out_indices)), count
    network.init_cfg, network._is_init = init_cfg, False
    if not hasattr(network, 'img_size'):
        network.img_size = options.get('img_size') or network.pretrained_cfg['input_size'][-1]
    return network


def usual_taps(reductions: Sequence[int]) -> tuple[int, ...]:
    """Return the stages to supervise: the last of every resolution, or those at each quarter of the depth.

    Args:
        reductions: Image side over map side of every stage.

    Returns:
        Of the resolutions of at most a quarter of the image's, all but the lowest, which the classifier supervises.
        For networks with fewer than three of them, as the transformers of one resolution, three stages.
    """
    last = {reduction: stage for stage, reduction in enumerate(reductions) if reduction >= 4}
    if len(last) > 2:
        return tuple(last.values())[:-1]
    return tuple(sorted({max(0, round(len(reductions) * quarter / 4) - 1) for quarter in (1, 2, 3)}))


@torch.no_grad()
def classified_width(network: nn.Module) -> int:
    """Return the width of the feature that is classified, measured without data."""
    ghost: Any = network.to('meta').eval()
    side = ghost.pretrained_cfg['input_size'][-1]
    return ghost(torch.zeros(1, 3, side, side, device='meta'))[-1].shape[1]
