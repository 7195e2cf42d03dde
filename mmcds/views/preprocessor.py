"""What happens to a batch on the device, between the loader and the network."""

from collections.abc import Sequence

import numpy as np
import torch
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.data.sample_batch import SampleBatch
from mmcds.views.color import NUM_UNIFORMS, RandomColor, apply_color, keyed_uniforms


@MODELS.register_module()
class CDSDataPreprocessor(ClsDataPreprocessor):
    """The host's classification preprocessor for V views in training and plain images at test time.

    Views come from the loader as uint8 (N, V, 3, H, W) and leave view-first, normalised, as (V, N, 3, H, W).
    Images (N, 3, H, W) are treated as the host treats them.

    In training it can compute colour, blur and Cutout of the views too, where the batch lives: see
    :attr:`view_colors`, which :class:`mmcds.openmmlab.hooks.ViewColorHook` sets together with the other end in the loader.

    Attributes:
        view_colors: Distribution of the colour of every view, None for a view without; empty if the views arrive in
            their final colours.
        stream: Seed of the run and number of the training step. What an image gets depends on these two, its
            ``sample_idx`` and the view alone. None draws from PyTorch's stream.

    Args:
        num_classes: K. Labels are checked against it while they are still on the CPU; -1 means unlabelled.
        **kwargs: ``mean``, ``std``, ``to_rgb``, ... of :class:`mmpretrain.models.ClsDataPreprocessor`.
    """

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(num_classes=num_classes, **kwargs)
        self.view_colors: Sequence[RandomColor | None] = ()
        self.stream: tuple[int, int] | None = None

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise one batch; see the class for the shapes.

        Raises:
            ConfigError: If a label lies outside [-1, num_classes).
        """
        samples, inputs = data.get('data_samples'), data['inputs']
        if samples is not None:
            self._check_labels(samples)
        if not isinstance(inputs, Tensor) or inputs.ndim != 5:
            if not isinstance(samples, SampleBatch):
                return super().forward(data, training)
            moved = list(samples.to(self.device))  # all labels at once, where MMPretrain moves one by one
            return {**super().forward({**data, 'data_samples': None}, training), 'data_samples': moved}
        moved = samples.to(self.device) if isinstance(samples, SampleBatch) else self.cast_data(samples)
        views = self.cast_data(inputs).transpose(0, 1)
        return {**data, 'inputs': self._prepare(views, moved, training), 'data_samples': moved}

    def _prepare(self, views: Tensor, samples: Sequence[DataSample] | SampleBatch | None, training: bool) -> Tensor:
        """Colour and normalise in one copy; (V, N, 3, H, W), uint8 to float32, or to the type of a wider model."""
        dtype = torch.promote_types(torch.float32, self.mean.dtype) if self._enable_normalize else torch.float32
        images = torch.empty(views.shape, dtype=dtype, device=views.device)
        for channel in range(3):
            images[:, :, channel] = views[:, :, 2 - channel if self.to_rgb else channel]
        if training and any(self.view_colors):
            self._color(images, samples)
        if self._enable_normalize:
            images.sub_(self.mean).div_(self.std)
        if self.pad_size_divisor > 1:
            height, width = (-side % self.pad_size_divisor for side in views.shape[-2:])
            images = F.pad(images, (0, width, 0, height), value=self.pad_value)
        return images

    def _color(self, images: Tensor, samples: Sequence[DataSample] | SampleBatch | None) -> None:
        """Draw and apply the colour of every view in-place."""
        if len(self.view_colors) != len(images):
            raise ConfigError(
                f'CDSDataPreprocessor: the batch has {len(images)} view(s), but view_colors describes '
                f'{len(self.view_colors)}. Both must come from one MultiViewTransform.'
            )
        for number, (color, view) in enumerate(zip(self.view_colors, images, strict=True)):
            if color is None:
                continue
            draw = color.draw(self._uniforms(number, len(view), samples))
            if self.to_rgb:
                apply_color(view, draw, color)
            else:  # colour is defined on red, green, blue
                view.copy_(apply_color(view.flip(1), draw, color).flip(1))

    def _uniforms(self, view: int, count: int, samples: Sequence[DataSample] | SampleBatch | None) -> np.ndarray:
        if self.stream is None:
            return torch.rand(count, NUM_UNIFORMS, dtype=torch.float64).numpy()
        indices = [sample.get('sample_idx') for sample in samples] if samples is not None else [None]
        if None in indices:
            raise ConfigError(
                'CDSDataPreprocessor: the colour of an image depends on its sample_idx, but the pipeline did not '
                "pack it. Keep sample_idx in PackInputs.meta_keys, or set color_on='worker' in MultiViewTransform."
            )
        return keyed_uniforms(*self.stream, np.asarray(indices), view)

    def _check_labels(self, samples: Sequence[DataSample] | SampleBatch) -> None:
        labels = samples.labels if isinstance(samples, SampleBatch) else None
        if labels is not None and self.num_classes and -1 <= labels.min() <= labels.max() < self.num_classes:
            return
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
