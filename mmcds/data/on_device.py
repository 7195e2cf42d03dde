"""Data sets that live on the device, where the views of a batch are cut without a loading process.

The pixels are those of the loading processes to the last bit, since crops and flips follow from the same numbers:

1. All images go to the device once, uint8, each with one row above and one column to its left for every value that
   pads crops.
2. Of a batch, the CPU draws where the views begin and in which direction their columns are read. This, the indices
   and the labels are one array of integers, and one copy.
3. The device makes coordinates of it, (N, V, h) and (N, V, w). Tables say where each is found; what lies outside
   an image is in the row and in the column of its padding. Then one gather gives the views.

Colours follow in :class:`mmcds.views.preprocessor.CDSDataPreprocessor`, as for other batches on the device.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from mmengine.dataset import RepeatDataset
from mmengine.device import get_device
from mmpretrain.datasets.transforms import RandomResizedCrop
from torch import Tensor
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError
from mmcds.data.in_memory import InMemory
from mmcds.data.partially_labelled import PartiallyLabelledDataset
from mmcds.data.sample_batch import SampleBatch
from mmcds.views.fused_view import FusedView, _fill, _sides
from mmcds.views.keyed import SeedByImage
from mmcds.views.loading import LoadImage
from mmcds.views.multi_view import MultiViewTransform

#: Settings of a loader that PyTorch refuses where there are no loading processes.
OF_PROCESSES = ('prefetch_factor', 'multiprocessing_context')


def take_setting(settings: Mapping[str, Any]) -> tuple[dict, dict | None]:
    """Take ``on_device`` out of the settings of a loader, and if it is wanted, the loading processes too.

    Args:
        settings: Of a loader. ``on_device`` is True, False, or ``dict(max_gb=...)``.

    Returns:
        The settings that MMEngine knows, and the arguments of :class:`DeviceLoader`; None if it is not wanted.

    Raises:
        ConfigError: If ``on_device`` is something else.
    """
    wish = settings.get('on_device') or False
    others = {key: value for key, value in settings.items() if key != 'on_device'}
    if wish is False:
        return others, None
    limited = isinstance(wish, Mapping) and set(wish) == {'max_gb'} and isinstance(wish['max_gb'], int | float)
    if wish is not True and not limited:
        raise ConfigError(f'on_device of a loader is {wish!r:.80}. Set it to True, False, or dict(max_gb=...).')
    others = {key: value for key, value in others.items() if key not in OF_PROCESSES}
    others.update(num_workers=0, persistent_workers=False, pin_memory=False)
    return others, {} if wish is True else dict(wish)


def _refused(reason: str) -> ConfigError:
    return ConfigError(f'on_device: {reason}. Leave on_device (--data-on-device) out.')


class _Source(NamedTuple):
    """Images (n, 3, H, W), uint8 BGR; labels (n,), int64; what makes the views, and each of them."""

    images: np.ndarray
    labels: np.ndarray
    transform: MultiViewTransform
    views: list[FusedView]


def _source(dataset: Any) -> _Source:
    """Return what a data set holds, or say why its views cannot be cut on the device."""
    inner = dataset.dataset if type(dataset) is RepeatDataset else dataset
    partial = isinstance(inner, PartiallyLabelledDataset)
    if partial and len(inner.parts) > 1:
        raise _refused(f'{type(inner).__name__} reads the images of `unlabelled` from a second data set')
    part = inner.parts[0] if partial else inner
    if not isinstance(part, InMemory):
        raise _refused(f'{type(part).__name__} does not hold its images as one array, as InMemoryCIFAR100 does')
    *readers, transform = list(getattr(part.pipeline, 'transforms', ()))[:-1] or [None]
    known = all(isinstance(step, LoadImage | SeedByImage) for step in readers)
    if part._arrays is None or type(transform) is not MultiViewTransform or not known:
        raise _refused(
            'the pipeline is not LoadImage, MultiViewTransform and PackSample alone, or images differ in size'
        )
    views = [view for view in transform.fused if view is not None]
    for number, view in enumerate(transform.fused):
        if view is None:
            raise _refused(f'view {number} of MultiViewTransform has transforms that need a loading process')
        if isinstance(view.crop, RandomResizedCrop):
            raise _refused(f'view {number} of MultiViewTransform has a RandomResizedCrop, which needs the CPU')
        if view.color is not None and transform.colors_here:
            raise ConfigError(
                f'on_device: view {number} of MultiViewTransform gets its colours in the loading process '
                f"(color_on is {transform.color_on!r}). Set color_on='device', which a CDSClassifier can do, or "
                'leave on_device (--data-on-device) out.'
            )
    images, labels = part._arrays
    for step in readers:
        images = step.transform_batch(images)
    sizes = sorted({view.batch_size_of_view(*images.shape[2:]) for view in views})
    if len(sizes) > 1:
        raise ConfigError(f'MultiViewTransform: the views have sizes {sizes}. Give all pipelines one crop size.')
    return _Source(images, inner.get_gt_labels() if partial else labels, transform, views)


class _Samples(SampleBatch):
    """A batch whose labels are on the device, and on the CPU as well, where checks wait for nothing.

    Args:
        labels: On the CPU, (N,), int64.
        metas: Meta fields of every sample.
        there: The same labels on the device.
    """

    def __init__(self, labels: Tensor, metas: Sequence[Mapping[str, Any]], there: Tensor) -> None:
        super().__init__(labels, metas)
        self.there, self.num_labelled = there, int((labels >= 0).sum())

    def to(self, device: torch.device | str) -> SampleBatch:
        """Give the labels that are there."""
        moved = SampleBatch(self.there.to(device, non_blocking=True), self.metas)
        moved.num_labelled = self.num_labelled
        return moved


class DeviceLoader(DataLoader):
    """Gives the batches of another loader, cut on the device from a copy of the data set.

    A batch is ``dict(inputs, data_samples)``: uint8 views (N, V, 3, h, w) on the device, and a
    :class:`mmcds.data.SampleBatch`. Where images have keys (:mod:`mmcds.views.keyed`), the views depend on seed,
    epoch and image alone, as in loading processes.

    The data set is an :class:`mmcds.data.InMemory`, whole or a subset, also within ``PartiallyLabelledDataset``,
    ``NoisyLabels`` or ``RepeatDataset``. Its pipeline is ``LoadImage``, ``MultiViewTransform`` and ``PackSample``.
    The views may have ``RandomCrop``, horizontal ``RandomFlip``, and colours that the preprocessor computes.

    Args:
        loader: Loader with the data set and the samplers.
        device: Where the images live; None: the GPU of this process, or the CPU if there is none.
        max_gb: What the images may take there, in units of 2^30 bytes; None: half of the free memory of a GPU.

    Raises:
        ConfigError: If the data set is another one or too large, or if the views need a loading process.
    """

    def __init__(self, loader: DataLoader, device: str | None = None, max_gb: float | None = None) -> None:
        self.__dict__.update(vars(loader))  # the same samplers; DataLoader.__init__ would make others
        images, self._labels, self._transform, views = _source(loader.dataset)
        self._size = views[0].batch_size_of_view(*images.shape[2:])
        sides, values = zip(*map(_padding, views), strict=True)
        fills = [value for value in dict.fromkeys(values) if value is not None]
        self._check_memory(3 * len(images) * math.prod(side + len(fills) for side in images.shape[2:]), max_gb)
        place = torch.device(device or get_device())
        self._images = torch.from_numpy(_with_fills(images, fills)).to(place)
        left, top, right, bottom = np.array(sides).T
        before, after = np.stack([top, left]), np.stack([bottom, right])  # (2, V) each
        padded = np.array(images.shape[2:])[:, None] + before + after
        self._places = (padded - np.array(self._size)[:, None] + 1).T  # where views can begin, (V, 2)
        self._flips = [view.flip for view in views]
        outside = np.array([fills.index(value) if value is not None else 0 for value in values])[:, None]
        tables = []
        for side, lengths, first in zip(images.shape[2:], padded, before, strict=True):
            inside = np.arange(lengths.max()) - first[:, None]  # (V, P)
            table = np.where((inside >= 0) & (inside < side), len(fills) + inside, outside)
            tables.append(torch.from_numpy(table).to(place))
        self._rows, self._columns = tables
        self._along_y, self._along_x = (torch.arange(size, device=place) for size in self._size)
        self._view = torch.arange(len(views), device=place)[:, None]
        self._channel = torch.arange(3, device=place)[:, None, None]
        self._meta = dict(img_shape=self._size, ori_shape=images.shape[2:])
        self._pinned = torch.cuda.is_available()

    def _check_memory(self, size: int, max_gb: float | None) -> None:
        if max_gb is None and torch.cuda.is_available():
            max_gb = torch.cuda.mem_get_info()[0] / 2 / 2**30
        if max_gb is not None and size > max_gb * 2**30:
            raise _refused(
                f'{len(self._labels)} images of {type(self.dataset).__name__} take {size / 2**30:.3f} GB, and the '
                f'limit is {max_gb:.3f} GB (max_gb, otherwise half of the free memory of the GPU)'
            )

    def read(self, indices: Sequence[int]) -> dict:
        """Return the batch of some samples; see the class."""
        rows = np.asarray(indices) % len(self._labels)  # a RepeatDataset counts on
        labels = self._labels[rows]
        sent = np.empty((2 + 3 * len(self._flips), len(rows)), np.int64)
        sent[0], sent[1] = rows, labels
        starts = sent[2:].reshape(3, len(rows), len(self._flips))
        for number, (flip, places) in enumerate(zip(self._flips, self._places, strict=True)):
            uniforms = self._transform._uniforms(number, len(rows), rows)
            flipped = uniforms[:, 2] < flip
            starts[:2, :, number] = (uniforms[:, :2] * places).astype(np.int64).T
            starts[1, :, number] += flipped * (self._size[1] - 1)
            starts[2, :, number] = 1 - 2 * flipped
        buffer = torch.from_numpy(sent)
        there = (buffer.pin_memory() if self._pinned else buffer).to(self._images.device, non_blocking=True)
        tops, lefts, steps = there[2:].view(starts.shape)[..., None]  # (N, V, 1) each
        y = self._rows[self._view, tops + self._along_y]
        x = self._columns[self._view, (steps * self._along_x).add_(lefts)]
        image = there[0][:, None, None, None, None]
        inputs = self._images[image, self._channel, y[:, :, None, :, None], x[:, :, None, None]]
        metas = [dict(sample_idx=row, **self._meta) for row in rows.tolist()]
        return dict(inputs=inputs, data_samples=_Samples(torch.from_numpy(labels), metas, there[1]))

    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]
        return map(self.read, cast(Any, self.batch_sampler))


def _padding(view: FusedView) -> tuple[Sequence[int], tuple | None]:
    """Return left, top, right and bottom padding of a view, and its value for every channel; None without."""
    if view.crop is None or view.crop.padding is None:
        return (0, 0, 0, 0), None
    return _sides(view.crop.padding), tuple(_fill(view.crop).tolist())


def _with_fills(images: np.ndarray, fills: Sequence[tuple]) -> np.ndarray:
    """Put a row and a column of every fill before those of the images: fill f is row f and column f."""
    for fill in reversed(fills):
        count, channels, height, width = images.shape
        larger = np.empty((count, channels, height + 1, width + 1), np.uint8)
        larger[:] = np.asarray(fill)[:, None, None]
        larger[:, :, 1:, 1:] = images
        images = larger
    return np.ascontiguousarray(images)
