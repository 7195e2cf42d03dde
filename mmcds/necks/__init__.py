"""Projection heads between a tapped feature map and a contrastive loss."""

from mmcds.necks.cds_neck import CDSNeck, GlobalAvgPool, SepConv, sepconv_trunk

__all__ = ['CDSNeck', 'GlobalAvgPool', 'SepConv', 'sepconv_trunk']
