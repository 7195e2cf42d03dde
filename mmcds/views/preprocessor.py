"""What happens to a batch on the device, between the loader and the network."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import MessageHub
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.data.sample_batch import SampleBatch
from mmcds.views.color import NUM_UNIFORMS, ColorDraw, RandomColor, apply_color, keyed_uniforms
from mmcds.views.color_kernel import prepare, usable


def run_stream() -> tuple[int, int] | None:
    """Return seed and training step of the run, from which colours are drawn; None outside a run."""
    info = MessageHub.get_current_instance().runtime_info
    return (info['seed'], info['iter']) if {'seed', 'iter'} <= info.keys() else None


def _kernel_takes(views: Tensor, mean: Tensor | None) -> bool:
    """Return whether one launch can prepare views (V, N, 3, H, W): on a GPU, three channels, results in float32."""
    fits = mean is None or (mean.numel() == 3 and mean.dtype != torch.float64)
    return views.shape[2] == 3 and fits and usable(views.device)


@MODELS.register_module()
class CDSDataPreprocessor(ClsDataPreprocessor):
    """MMPretrain's classification preprocessor for V views in training and plain images at test time.

    Views come from the loader as uint8 (N, V, 3, H, W) and leave view-first, normalised, as (V, N, 3, H, W).
    Images (N, 3, H, W) are treated as MMPretrain treats them.

    In training it can compute colour, blur and Cutout of the views too, where the batch lives. What an image gets
    depends on the seed of the run, the training step, its ``sample_idx`` and the view alone: the number of ranks and
    of workers has no influence, and a resumed run goes on with the same colours. Outside a run the numbers come from
    PyTorch's stream. On a GPU all of this is one launch, see :mod:`mmcds.views.color_kernel`, except for the blur.

    Args:
        num_classes: K. Labels are checked against it while they are still on the CPU; -1 means unlabelled.
        view_colors: Distribution of the colour of every view, :class:`mmcds.views.RandomColor` or its arguments, None
            for a view without; empty if the views arrive in their final colours.
        **kwargs: ``mean``, ``std``, ``to_rgb``, ... of :class:`mmpretrain.models.ClsDataPreprocessor`.

    Raises:
        ConfigError: If ``to_onehot`` is asked for.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        view_colors: Sequence[RandomColor | Mapping | None] = (),
        **kwargs: Any,
    ) -> None:
        if kwargs.get('to_onehot'):
            raise ConfigError(
                'CDSDataPreprocessor: to_onehot is True, but the losses compare labels as numbers. Leave it out.'
            )
        super().__init__(num_classes=num_classes, **kwargs)
        self._non_blocking = True  # the loader pins its batches
        self.view_colors = tuple(
            RandomColor(**color) if isinstance(color, Mapping) else color for color in view_colors
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Normalise one batch; see the class for the shapes.

        Raises:
            ConfigError: If a label lies outside [-1, num_classes), or there are no images in the batch.
        """
        if 'inputs' not in data:
            raise ConfigError('the pipeline packs no inputs. End it with PackViews, PackSample or PackInputs.')
        samples, inputs = data.get('data_samples'), data['inputs']
        if samples is not None:
            self._check_labels(samples)
        if not isinstance(inputs, Tensor) or inputs.ndim != 5:
            if not isinstance(samples, SampleBatch):
                return super().forward(data, training)
            listed = list(samples.to(self.device))  # all labels at once, where MMPretrain moves one by one
            return {**super().forward({**data, 'data_samples': None}, training), 'data_samples': listed}
        moved = samples.to(self.device) if isinstance(samples, SampleBatch) else self.cast_data(samples)
        views = self.cast_data(inputs).transpose(0, 1)
        return {**data, 'inputs': self._prepare(views, moved, training), 'data_samples': moved}

    def _prepare(self, views: Tensor, samples: Sequence[DataSample] | SampleBatch | None, training: bool) -> Tensor:
        """Colour and normalise; (V, N, 3, H, W), uint8 to float32, or to the type of a wider model."""
        draws = self._draws(len(views), views.shape[1], samples) if training else ()
        mean, std = (self.mean, self.std) if self._enable_normalize else (None, None)
        if _kernel_takes(views, mean):
            images = prepare(views, draws, self.view_colors, mean, std, self.to_rgb)
        else:
            images = self._prepare_by_operations(views, draws)
        if self.pad_size_divisor > 1:
            height, width = (-side % self.pad_size_divisor for side in views.shape[-2:])
            images = F.pad(images, (0, width, 0, height), value=self.pad_value)
        return images

    def _prepare_by_operations(self, views: Tensor, draws: Sequence[ColorDraw | None]) -> Tensor:
        """Do it in one copy by operations of PyTorch."""
        dtype = torch.promote_types(torch.float32, self.mean.dtype) if self._enable_normalize else torch.float32
        images = torch.empty(views.shape, dtype=dtype, device=views.device)
        for channel in range(3):
            images[:, :, channel] = views[:, :, 2 - channel if self.to_rgb else channel]
        for color, draw, view in zip(self.view_colors, draws, images, strict=False):
            if color is None or draw is None:
                continue
            if self.to_rgb:
                apply_color(view, draw, color)
            else:  # colour is defined on red, green, blue
                view.copy_(apply_color(view.flip(1), draw, color).flip(1))
        if self._enable_normalize:
            images.sub_(self.mean).div_(self.std)
        return images

    def _draws(
        self, num_views: int, count: int, samples: Sequence[DataSample] | SampleBatch | None
    ) -> list[ColorDraw | None]:
        """Draw the colour of every view; None for a view without; empty if no view has one."""
        if all(color is None for color in self.view_colors):
            return []
        if len(self.view_colors) != num_views:
            raise ConfigError(
                f'CDSDataPreprocessor: the batch has {num_views} view(s), but view_colors describes '
                f'{len(self.view_colors)}. Both must describe one MultiViewTransform.'
            )
        return [
            None if color is None else color.draw(self._uniforms(number, count, samples))
            for number, color in enumerate(self.view_colors)
        ]

    def _uniforms(self, view: int, count: int, samples: Sequence[DataSample] | SampleBatch | None) -> np.ndarray:
        stream = run_stream()
        if stream is None:
            return torch.rand(count, NUM_UNIFORMS, dtype=torch.float64).numpy()
        indices = [sample.get('sample_idx') for sample in samples] if samples is not None else [None]
        if None in indices:
            raise ConfigError(
                'CDSDataPreprocessor: the colour of an image depends on its sample_idx, but the pipeline did not '
                "pack it. Keep sample_idx in PackInputs.meta_keys, or set color_on='worker' in MultiViewTransform."
            )
        return keyed_uniforms(*stream, np.asarray(indices), view)

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
