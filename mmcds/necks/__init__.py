"""Projection heads between a tapped feature map and a contrastive loss."""

from mmcds.necks.cds_neck import CDSNeck, SepConv, sepconv_trunk

__all__ = ['CDSNeck', 'SepConv', 'sepconv_trunk']
