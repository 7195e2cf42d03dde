"""V views of one image that was decoded once, each by a pipeline of its own."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform, Compose
from mmpretrain.registry import TRANSFORMS

from mmcds.core.errors import ConfigError
from mmcds.views.color import NUM_UNIFORMS, RandomColor, keyed_uniforms
from mmcds.views.color_uint8 import apply_color_planes
from mmcds.views.fused_view import NUM_SHAPE, FusedView
from mmcds.views.fused_view import fuse as fuse_view
from mmcds.views.keyed import EpochKey, pipelines, seed_streams


def pipeline_steps(dataset: Any) -> Iterator[Callable]:
    """Return the transforms of a data set, or of all data sets that it wraps."""
    for pipeline in pipelines(dataset):
        yield from getattr(pipeline, 'transforms', ())


@TRANSFORMS.register_module()
class MultiViewTransform(BaseTransform):
    """Turn ``img`` into a contiguous uint8 tensor of V views, (V, 3, H, W).

    View 0 is the one that is classified. The pipelines share the decoded image and must not write into it;
    the transforms of MMPretrain and MMCV do not. ``PackInputs`` passes the tensor on, and ``default_collate``
    makes it (N, V, 3, H, W).

    A pipeline of the usual transforms is recognised (see :func:`mmcds.views.fused_view.fuse`) and runs as one
    step: the same distribution at a fraction of the cost. Its colour, blur and Cutout may then be left to
    :class:`mmcds.views.preprocessor.CDSDataPreprocessor`, which does them for a whole batch. Any other pipeline runs
    as it is written.

    **Modified keys:** ``img``, ``img_shape``.

    Args:
        views: One pipeline (list of transforms or of their configs) per view.
        color_on: Where colour, blur and Cutout of views that are recognised are computed: ``'worker'``, in the
            loading process; ``'device'``, on the batch, by a preprocessor that is told the same; ``'auto'``, as
            :func:`mmcds.openmmlab.colors.place_colors` decides, and in the loading process if nobody asks it.
        fuse: False runs every pipeline as it is written.

    Raises:
        ConfigError: If there is no view, if ``color_on`` is unknown or cannot be had, or if the views of an image
            differ in size.
    """

    #: Set by :func:`mmcds.views.keyed.key_by_image`; without it, views are drawn from the streams of the process.
    epoch_key: EpochKey | None = None

    def __init__(self, views: Sequence[Sequence[dict | Callable]], color_on: str = 'auto', fuse: bool = True) -> None:
        super().__init__()
        if not views:
            raise ConfigError('MultiViewTransform: views is empty; give one pipeline per view.')
        if color_on not in ('auto', 'worker', 'device'):
            raise ConfigError(f"MultiViewTransform: color_on is {color_on!r}; choose 'auto', 'worker' or 'device'.")
        self.views = [
            Compose([TRANSFORMS.build(step) if isinstance(step, dict) else step for step in view]) for view in views
        ]
        self.fused = [fuse_view(view.transforms) if fuse else None for view in self.views]
        self.color_on = color_on
        if color_on == 'device' and None in self.fused:
            raise ConfigError(
                f"MultiViewTransform: color_on is 'device', but view {self.fused.index(None)} holds transforms that "
                "only a loading process can run. Use color_on='worker', or the transforms that fuse() lists."
            )

    @property
    def colors_here(self) -> bool:
        """Return whether the views leave this transform in their final colours."""
        return self.color_on != 'device'

    @property
    def colors(self) -> list[RandomColor | None] | None:
        """Return the colour of every view, or None if a view was not recognised and keeps its own."""
        return [view.color for view in self.fused if view is not None] if None not in self.fused else None

    def transform(self, results: dict) -> dict:
        """Apply every pipeline to the image, or, where it is not recognised, to a shallow copy of the sample."""
        images = []
        for number, (view, fused) in enumerate(zip(self.views, self.fused, strict=True)):
            if self.epoch_key is not None and 'sample_idx' in results:
                seed_streams(self.epoch_key.get(), results['sample_idx'], number)
            images.append(view(dict(results))['img'] if fused is None else self._run(fused, results['img']))
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ConfigError(
                f'MultiViewTransform: the views of one image have shapes {sorted(shapes)}; all '
                'views must end with the same size. Give every pipeline the same crop size.'
            )
        height, width = images[0].shape[:2]
        planes = np.empty((len(images), 3, height, width), np.uint8)
        for image, target in zip(images, planes, strict=True):
            cv2.split(image, list(target))  # writes into the planes; several times faster than a transposed copy
        results['img'] = torch.from_numpy(planes)
        results['img_shape'] = (height, width)
        return results

    def _run(self, view: FusedView, image: np.ndarray) -> np.ndarray:
        image = view.shape(image)
        if not self.colors_here or view.color is None:
            return image
        return view.recolor(image, view.draw_color(np.random.random((1, NUM_UNIFORMS))))

    def transform_batch(self, images: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray | None:
        """Make the views of many images of one size at once.

        Args:
            images: uint8 BGR, (N, 3, H, W).
            indices: Index of every image in its data set, (N,).

        Returns:
            uint8, (N, V, 3, h, w); None if a view was not recognised, so that each image has to go its own way.
        """
        views = [view for view in self.fused if view is not None]
        if len(views) < len(self.fused):
            return None
        sizes = {view.batch_size_of_view(*images.shape[2:]) for view in views}
        if len(sizes) > 1:
            return None  # the error comes with the first image
        out = np.empty((len(images), len(views), 3, *sizes.pop()), np.uint8)
        for number, view in enumerate(views):
            uniforms = self._uniforms(number, len(images), indices)
            view.shape_batch(images, out[:, number], uniforms[:, :NUM_SHAPE])
            draw = view.draw_color(uniforms[:, NUM_SHAPE:]) if self.colors_here else None
            if draw is not None and view.color is not None:
                apply_color_planes(out[:, number], draw, view.color)
        return out

    def _uniforms(self, view: int, count: int, indices: np.ndarray | None) -> np.ndarray:
        """Draw what a view of many images needs, (N, NUM_SHAPE + NUM_UNIFORMS)."""
        if self.epoch_key is None or indices is None:
            return np.random.random((count, NUM_SHAPE + NUM_UNIFORMS))
        return keyed_uniforms(self.epoch_key.get(), 0, indices, view, NUM_SHAPE + NUM_UNIFORMS)

    def __repr__(self) -> str:
        return 'MultiViewTransform(\n' + '\n'.join(f'    view {i}: {view}' for i, view in enumerate(self.views)) + ')'
