"""Data sets that MMPretrain lacks."""

from mmcds.datasets.embedded import EmbeddedFashionMNIST

__all__ = ['EmbeddedFashionMNIST']
