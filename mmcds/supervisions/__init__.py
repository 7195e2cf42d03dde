"""Extra losses on what a training step already computed: the protocol and the paper's own method."""

from mmcds.supervisions.base import Supervision
from mmcds.supervisions.contrastive import ContrastiveSupervision
from mmcds.supervisions.distillation import (
    EmbeddingDistillation,
    FeatureDistillation,
    LogitDistillation,
    kl_divergence,
)

__all__ = [
    'ContrastiveSupervision',
    'EmbeddingDistillation',
    'FeatureDistillation',
    'LogitDistillation',
    'Supervision',
    'kl_divergence',
]
