"""Labels and indices of a batch as few arrays, so that no hundreds of data samples travel between processes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.dataset import default_collate
from mmengine.registry import FUNCTIONS
from mmpretrain.structures import DataSample
from torch import Tensor


def make_sample(meta: Mapping[str, Any], label: Tensor | None) -> DataSample:
    """Build what ``DataSample(metainfo=meta).set_gt_label(label)`` builds, without its checks of every field.

    Args:
        meta: Meta fields.
        label: Class, (1,), int64; None for a sample without.
    """
    sample = DataSample.__new__(DataSample)
    fields = dict(meta) if label is None else {**meta, 'gt_label': label}
    sample.__dict__.update(fields, _metainfo_fields=set(meta), _data_fields=set() if label is None else {'gt_label'})
    return sample


class SampleBatch:
    """Stands for a list of data samples with one label each; it makes them when they are asked for.

    Args:
        labels: Class of every sample, (N,), int64; None for samples without.
        metas: Meta fields of every sample.

    Attributes:
        num_labelled: How many of them have a label; counted while the labels are on the CPU, before they are moved.
    """

    def __init__(self, labels: Tensor | None, metas: Sequence[Mapping[str, Any]]) -> None:
        self.labels, self.metas = labels, metas
        self.num_labelled: int | None = None
        self._samples: list[DataSample] | None = None

    @classmethod
    def pack(cls, samples: Sequence[DataSample]) -> 'SampleBatch | Sequence[DataSample]':
        """Take the samples apart if they hold nothing but one label and meta fields; else return them."""
        kinds = {tuple(sample.keys()) for sample in samples}
        if kinds == {('gt_label',)} and all(sample.gt_label.shape == (1,) for sample in samples):
            labels = torch.cat([sample.gt_label for sample in samples])
        elif kinds == {()}:
            labels = None
        else:
            return samples
        return cls(labels, [{key: sample.__dict__[key] for key in sample.metainfo_keys()} for sample in samples])

    def to(self, device: torch.device | str) -> 'SampleBatch':
        """Move the labels."""
        moved = SampleBatch(None if self.labels is None else self.labels.to(device, non_blocking=True), self.metas)
        moved.num_labelled = self.num_labelled
        if self.labels is not None and self.labels.is_cpu:
            moved.num_labelled = int((self.labels >= 0).sum())
        return moved

    def pin_memory(self) -> 'SampleBatch':
        """Pin the labels, for the loader."""
        return SampleBatch(None if self.labels is None else self.labels.pin_memory(), self.metas)

    @property
    def samples(self) -> list[DataSample]:
        """Return the data samples, always the same objects."""
        if self._samples is None:
            labels = self.labels.split(1) if self.labels is not None else [None] * len(self.metas)
            self._samples = [make_sample(meta, label) for meta, label in zip(self.metas, labels, strict=True)]
        return self._samples

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_samples': None}

    def __len__(self) -> int:
        return len(self.metas)

    def __iter__(self) -> Iterator[DataSample]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> DataSample:
        return self.samples[index]


class ViewBatch:
    """Prebuilt batch for :func:`collate_samples`; other collate functions see N samples.

    Args:
        inputs: Views of all images, (N, V, 3, H, W), uint8.
        samples: Their labels and indices.
    """

    def __init__(self, inputs: Tensor, samples: SampleBatch) -> None:
        self.inputs, self.samples = inputs, samples

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return dict(inputs=self.inputs[index], data_samples=self.samples[index])


@FUNCTIONS.register_module()
def collate_samples(data: ViewBatch | Sequence[dict], _scope_: str | None = None) -> dict:
    """Do what MMEngine's ``default_collate`` does, with the data samples as a :class:`SampleBatch`.

    Args:
        data: Samples, or a whole batch.
        _scope_: Written by MMEngine into configs that are inherited from another package; of no use here.
    """
    if isinstance(data, ViewBatch):
        return dict(inputs=data.inputs, data_samples=data.samples)
    batch = default_collate(data)
    if isinstance(batch.get('data_samples'), list):
        batch['data_samples'] = SampleBatch.pack(batch['data_samples'])
    return batch
