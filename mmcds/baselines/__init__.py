"""The methods that the paper compares with, one file each; nothing outside this folder imports them."""

from mmcds.baselines.at import ATSupervision
from mmcds.baselines.auxiliary import AuxiliaryClassifiers
from mmcds.baselines.cc import CCSupervision
from mmcds.baselines.crd import CRDSupervision
from mmcds.baselines.dhm import DHMSupervision
from mmcds.baselines.dist import DISTSupervision
from mmcds.baselines.dkd import DKDSupervision
from mmcds.baselines.dks import DKSSupervision
from mmcds.baselines.dsn import DSNSupervision
from mmcds.baselines.fitnet import FitNetSupervision
from mmcds.baselines.kd import KDSupervision
from mmcds.baselines.nkd import NKDSupervision
from mmcds.baselines.one import ONESupervision
from mmcds.baselines.reviewkd import ReviewKDSupervision
from mmcds.baselines.rkd import RKDSupervision
from mmcds.baselines.sp import SPSupervision
from mmcds.baselines.sskd import RotationSupervision, SSKDSupervision
from mmcds.baselines.standardized_kd import StandardizedKDSupervision
from mmcds.baselines.uskd import USKDSupervision

__all__ = [
    'ATSupervision',
    'AuxiliaryClassifiers',
    'CCSupervision',
    'CRDSupervision',
    'DHMSupervision',
    'DISTSupervision',
    'DKDSupervision',
    'DKSSupervision',
    'DSNSupervision',
    'FitNetSupervision',
    'KDSupervision',
    'NKDSupervision',
    'ONESupervision',
    'RKDSupervision',
    'ReviewKDSupervision',
    'RotationSupervision',
    'SPSupervision',
    'SSKDSupervision',
    'StandardizedKDSupervision',
    'USKDSupervision',
]
