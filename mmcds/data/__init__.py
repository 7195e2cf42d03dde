"""Data sets that MMPretrain lacks, and how their samples become batches."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from mmcds.data.embedded import EmbeddedEmoji, EmbeddedFashionMNIST
from mmcds.data.in_memory import InMemory, InMemoryCIFAR10, InMemoryCIFAR100
from mmcds.data.listing import QuickFolders, QuickImageNet
from mmcds.data.partially_labelled import NoisyLabels, PartiallyLabelledDataset
from mmcds.data.sample_batch import SampleBatch, collate_samples
from mmcds.data.semi_batch_sampler import SemiBatchSampler
from mmcds.data.stanford_dogs import StanfordDogs

__all__ = [
    'EmbeddedEmoji',
    'EmbeddedFashionMNIST',
    'InMemory',
    'InMemoryCIFAR10',
    'InMemoryCIFAR100',
    'NoisyLabels',
    'PartiallyLabelledDataset',
    'QuickFolders',
    'QuickImageNet',
    'SampleBatch',
    'SemiBatchSampler',
    'StanfordDogs',
    'collate_samples',
]
