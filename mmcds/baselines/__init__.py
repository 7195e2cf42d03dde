"""Rival methods, one file each; nothing outside this folder imports them."""

from mmcds.baselines.auxiliary import AuxiliaryClassifiers
from mmcds.baselines.dhm import DHMSupervision
from mmcds.baselines.dks import DKSSupervision
from mmcds.baselines.dsn import DSNSupervision

__all__ = ['AuxiliaryClassifiers', 'DHMSupervision', 'DKSSupervision', 'DSNSupervision']
