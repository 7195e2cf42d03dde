"""Measures of a trained network beyond its accuracy: what its stages know of the classes, and how alike they are."""

from mmcds.evaluation.features import pooled_features
from mmcds.evaluation.representation import (
    LinearProbe,
    cka_matrix,
    fit_linear_probe,
    knn_accuracy,
    linear_cka,
)

__all__ = [
    'LinearProbe',
    'cka_matrix',
    'fit_linear_probe',
    'knn_accuracy',
    'linear_cka',
    'pooled_features',
]
