"""Data sets of small images that are held as one array and make the views of a whole batch at once."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from mmpretrain.datasets import CIFAR10, CIFAR100, BaseDataset
from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import DATASETS

from mmcds.data.sample_batch import SampleBatch, ViewBatch


class InMemory(BaseDataset):
    """Mixin that serves whole batches from one array; list it first: ``class X(InMemory, CIFAR10)``.

    The samples of the other base hold their image, ``img``, all of one size.

    The loader asks it for a whole batch. If every step of the pipeline can take one (``LoadImage``, a
    ``MultiViewTransform`` that recognises its views, ``PackInputs`` at the end), the batch is cut from one array
    without going through the pipeline image by image: the same distribution of views, at a fraction of the cost.
    For other pipelines, and where a single image is asked for, everything is as in MMPretrain. Use it with
    ``collate_fn=dict(type='collate_samples')``.
    """

    _arrays: tuple[np.ndarray, np.ndarray] | None = None

    def full_init(self) -> None:
        """Read the images; done once, before the loading processes start, which share the array."""
        super().full_init()
        self._arrays = self._stack() if self._arrays is None else self._arrays

    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keep some samples."""
        super().get_subset_(indices)
        self._arrays = self._stack()

    def get_subset(self, indices: Sequence[int] | int) -> BaseDataset:
        """Return a data set of some samples."""
        subset = super().get_subset(indices)
        subset._arrays = subset._stack()
        return subset

    def _batched_steps(self) -> list[Callable]:
        """Return the batch form of all steps but the last; empty if one has none."""
        steps = list(getattr(self.pipeline, 'transforms', ()))
        if not steps or not isinstance(steps.pop(), PackInputs):
            return []
        batched = [getattr(step, 'transform_batch', None) for step in steps]
        return [] if None in batched else cast(list[Callable], batched)

    def _stack(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return images (N, C, H, W), and labels (N,); None if they are of several sizes, or nobody needs them."""
        if not self._batched_steps():
            return None
        infos = [self.get_data_info(index) for index in range(len(self))]
        if len({info['img'].shape for info in infos}) != 1:
            return None
        images = np.stack([np.atleast_3d(info['img']).transpose(2, 0, 1) for info in infos])
        return images, np.array([info['gt_label'] for info in infos], dtype=np.int64)

    @property
    def batched(self) -> bool:
        """Return whether whole batches are cut from the array."""
        return self._arrays is not None

    def read_batch(self, indices: Sequence[int]) -> ViewBatch | None:
        """Return the views, and labels, of many samples; None if they have to go through the pipeline singly."""
        if self._arrays is None:
            return None
        images, labels = self._arrays
        rows = np.asarray(indices)
        batch = images[rows]
        for step in self._batched_steps():
            batch = step(batch, rows)
            if batch is None:
                return None
        shapes = dict(img_shape=tuple(batch.shape[-2:]), ori_shape=images.shape[-2:])
        metas = [dict(sample_idx=index, **shapes) for index in rows.tolist()]
        return ViewBatch(
            torch.from_numpy(np.ascontiguousarray(batch)), SampleBatch(torch.from_numpy(labels[rows]), metas)
        )

    def __getitems__(self, indices: Sequence[int]) -> ViewBatch | list[dict]:
        """Serve the loader, which asks for the indices of a batch."""
        batch = self.read_batch(indices)
        return [self[index] for index in indices] if batch is None else batch


@DATASETS.register_module()
class InMemoryCIFAR10(InMemory, CIFAR10):
    """CIFAR-10 by whole batches; the arguments are those of :class:`mmpretrain.datasets.CIFAR10`."""


@DATASETS.register_module()
class InMemoryCIFAR100(InMemory, CIFAR100):
    """CIFAR-100 by whole batches; the arguments are those of :class:`mmpretrain.datasets.CIFAR100`."""
