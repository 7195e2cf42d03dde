"""Projection heads between a tapped feature map and a contrastive loss."""

from mmcds.heads.projection import CDSNeck, GlobalAvgPool, SepConv, sepconv_trunk

__all__ = ['CDSNeck', 'GlobalAvgPool', 'SepConv', 'sepconv_trunk']
