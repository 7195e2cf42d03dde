"""What is measured of the predictions beside their accuracy: calibration (Figure 5 of the paper)."""

from mmcds.evaluation.calibration import CalibrationError

__all__ = ['CalibrationError']
