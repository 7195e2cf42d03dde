"""Extra losses on what a training step already computed: the protocol and the paper's own method."""

from mmcds.core.supervision import Supervision
from mmcds.methods.contrastive import ContrastiveSupervision
from mmcds.methods.distillation import (
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
