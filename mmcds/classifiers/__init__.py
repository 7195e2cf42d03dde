"""The classifier that runs the views once and lets the supervisions listen."""

from mmcds.classifiers.cds import CDSClassifier

__all__ = ['CDSClassifier']
