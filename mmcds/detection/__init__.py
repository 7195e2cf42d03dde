"""Detection transfer: mmcv's operators without a compiler, and what a detector's run is checked for.

Importing this package is all that a config of MMDetection needs: ``custom_imports=dict(imports=['mmcds.detection'])``.
"""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)
require('mmdet', 'det', __name__)

from mmcds.detection.operators import install_operators
from mmcds.openmmlab.registration import without_noise

install_operators()
with without_noise():
    import mmdet.evaluation
    import mmdet.models  # noqa: F401

    from mmcds.detection.check import CheckDetectionDataHook
    from mmcds.detection.dataset import CheckedCocoDataset

__all__ = ['CheckDetectionDataHook', 'CheckedCocoDataset', 'install_operators']
