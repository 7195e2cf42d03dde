"""Data sets that MMPretrain lacks, and how their samples become batches."""

from mmcds.datasets.embedded import EmbeddedFashionMNIST
from mmcds.datasets.in_memory import InMemory, InMemoryCIFAR10, InMemoryCIFAR100
from mmcds.datasets.listing import QuickFolders, QuickImageNet
from mmcds.datasets.partially_labelled import PartiallyLabelledDataset
from mmcds.datasets.sample_batch import SampleBatch, collate_samples
from mmcds.datasets.semi_batch_sampler import SemiBatchSampler
from mmcds.datasets.stanford_dogs import StanfordDogs

__all__ = [
    'EmbeddedFashionMNIST',
    'InMemory',
    'InMemoryCIFAR10',
    'InMemoryCIFAR100',
    'PartiallyLabelledDataset',
    'QuickFolders',
    'QuickImageNet',
    'SampleBatch',
    'SemiBatchSampler',
    'StanfordDogs',
    'collate_samples',
]
