"""Stop a detector's run whose heads are for other classes than the data has."""

from mmpretrain.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import CheckDataHook


@HOOKS.register_module()
class CheckDetectionDataHook(CheckDataHook):
    """Compare the data sets with the heads of a detector.

    Raises:
        ConfigError: If a data set is empty or has another number of classes than a head.
    """

    def _check_classes(self, name: str, loader: DataLoader, model: nn.Module) -> None:
        super()._check_classes(name, loader, model)
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        for path, module in model.named_modules():
            expected = getattr(module, 'num_classes', None)
            ours = path.split('.')[0] in ('bbox_head', 'roi_head', 'mask_head')  # an rpn_head has one class always
            if ours and classes is not None and isinstance(expected, int) and len(classes) != expected:
                raise ConfigError(
                    f'{name}: the data set has {len(classes)} classes, but model.{path}.num_classes is {expected}. '
                    f'Set num_classes of every head to {len(classes)}, or metainfo=dict(classes=...) of the data set.'
                )
