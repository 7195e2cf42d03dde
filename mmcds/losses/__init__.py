"""Contrastive losses on (V, N, D) embeddings, what is watched beside them, and the gather across ranks."""

from mmcds.losses.gather import Gathered, gather_embeddings
from mmcds.losses.metrics import alignment, contrast_metrics, uniformity
from mmcds.losses.ntxent import NTXentLoss, ntxent_loss
from mmcds.losses.ring import ring_contrast_loss
from mmcds.losses.sincere import SINCERELoss, sincere_loss
from mmcds.losses.supcon import Classes, SupConLoss, number_classes, supcon_loss

__all__ = [
    'Classes',
    'Gathered',
    'NTXentLoss',
    'SINCERELoss',
    'SupConLoss',
    'alignment',
    'contrast_metrics',
    'gather_embeddings',
    'ntxent_loss',
    'number_classes',
    'ring_contrast_loss',
    'sincere_loss',
    'supcon_loss',
    'uniformity',
]
