"""V views of one image that was decoded once, each by a pipeline of its own."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmpretrain.registry import TRANSFORMS

from mmcds.errors import ConfigError


@TRANSFORMS.register_module()
class MultiViewTransform(BaseTransform):
    """Turn ``img`` into a uint8 tensor of V views, (V, 3, H, W).

    View 0 is the one that is classified. The pipelines share the decoded image and must not write into it;
    the transforms of MMPretrain and MMCV do not. ``PackInputs`` passes the tensor on, and ``default_collate``
    makes it (N, V, 3, H, W).

    **Modified keys:** ``img``, ``img_shape``.

    Args:
        views: One pipeline (list of transforms or of their configs) per view.

    Raises:
        ConfigError: If there is no view, or if the views of an image differ in size.
    """

    def __init__(self, views: Sequence[Sequence[dict | Callable]]) -> None:
        super().__init__()
        if not views:
            raise ConfigError('MultiViewTransform: views is empty; give one pipeline per view.')
        self.views = [
            Compose([TRANSFORMS.build(step) if isinstance(step, dict) else step for step in view]) for view in views
        ]

    def transform(self, results: dict) -> dict:
        """Apply every pipeline to a shallow copy of the sample."""
        images = [view(dict(results))['img'] for view in self.views]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ConfigError(
                f'MultiViewTransform: the views of one image have shapes {sorted(shapes)}; all '
                'views must end with the same size. Give every pipeline the same crop size.'
            )
        results['img'] = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
        results['img_shape'] = images[0].shape[:2]
        return results

    def __repr__(self) -> str:
        return 'MultiViewTransform(\n' + '\n'.join(f'    view {i}: {view}' for i, view in enumerate(self.views)) + ')'
