"""Contrastive losses on (V, N, D) embeddings, and the gather across ranks."""

from mmcds.losses.gather import gather_embeddings
from mmcds.losses.ntxent import NTXentLoss, ntxent_loss
from mmcds.losses.supcon import SupConLoss, supcon_loss

__all__ = ['NTXentLoss', 'SupConLoss', 'gather_embeddings', 'ntxent_loss', 'supcon_loss']
