"""What happens to a batch on the device, between the loader and the network."""

from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from mmcds.errors import ConfigError


@MODELS.register_module()
class CDSDataPreprocessor(ClsDataPreprocessor):
    """The host's classification preprocessor for V views in training and plain images at test time.

    Views come from the loader as uint8 (N, V, 3, H, W) and leave view-first, normalised, as (V, N, 3, H, W).
    Images (N, 3, H, W) are treated as the host treats them.

    Args:
        num_classes: K. Labels are checked against it while they are still on the CPU; -1 means unlabelled.
        **kwargs: ``mean``, ``std``, ``to_rgb``, ... of :class:`mmpretrain.models.ClsDataPreprocessor`.
    """

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes=num_classes, **kwargs)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise one batch; see the class for the shapes.

        Raises:
            ConfigError: If a label lies outside [-1, num_classes).
        """
        if data.get('data_samples') is not None:
            self._check_labels(data['data_samples'])
        inputs = data['inputs']
        if not isinstance(inputs, Tensor) or inputs.ndim != 5:
            return super().forward(data, training)
        views = inputs.transpose(0, 1)
        batch = super().forward({**data, 'inputs': views.flatten(0, 1)}, training)
        return {**batch, 'inputs': batch['inputs'].unflatten(0, views.shape[:2])}

    def _check_labels(self, samples: list[DataSample]) -> None:
        for sample in samples:
            if self.num_classes is None or 'gt_label' not in sample:
                continue
            label = sample.gt_label
            if label.numel() == 1 and not -1 <= int(label) < self.num_classes:
                where = sample.get('img_path') or f'sample {sample.get("sample_idx")}'
                raise ConfigError(
                    f'CDSDataPreprocessor: {where} has label {int(label)}, but labels must be -1 '
                    f'(unlabelled) or 0 to {self.num_classes - 1}. Correct the annotation or '
                    'set num_classes of head and data_preprocessor.'
                )
