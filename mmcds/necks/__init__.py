"""Projection heads between a tapped feature map and a contrastive loss."""

from mmcds.necks.cds_neck import CDSNeck

__all__ = ['CDSNeck']
