"""Measures of a trained network beyond its accuracy: calibration, what its stages know, how alike they are."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from mmcds.evaluation.calibration import CalibrationError
from mmcds.evaluation.features import pooled_features
from mmcds.evaluation.representation import (
    LinearProbe,
    cka_matrix,
    fit_linear_probe,
    knn_accuracy,
    linear_cka,
)

__all__ = [
    'CalibrationError',
    'LinearProbe',
    'cka_matrix',
    'fit_linear_probe',
    'knn_accuracy',
    'linear_cka',
    'pooled_features',
]
