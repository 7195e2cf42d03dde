"""Data sets that MMPretrain lacks."""

from mmcds.datasets.embedded import EmbeddedFashionMNIST
from mmcds.datasets.partially_labelled import PartiallyLabelledDataset
from mmcds.datasets.semi_batch_sampler import SemiBatchSampler

__all__ = ['EmbeddedFashionMNIST', 'PartiallyLabelledDataset', 'SemiBatchSampler']
