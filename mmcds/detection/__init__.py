"""Detection transfer: mmcv's operators without a compiler, and what a detector's run is checked for.

Importing this package is all that a config of MMDetection needs: ``custom_imports=dict(imports=['mmcds.detection'])``.
"""

from importlib.util import find_spec

from mmcds.core.errors import ConfigError
from mmcds.detection.operators import install_operators
from mmcds.openmmlab.registration import without_noise

if find_spec('mmdet') is None:
    raise ConfigError(
        'detection needs MMDetection, which is not installed: pip install onedl-mmdetection (not mmdet), or the '
        "extra: pip install 'mmcds[det]'."
    )
install_operators()
with without_noise():
    import mmdet.evaluation
    import mmdet.models  # noqa: F401

    from mmcds.detection.check import CheckDetectionDataHook
    from mmcds.detection.dataset import CheckedCocoDataset

__all__ = ['CheckDetectionDataHook', 'CheckedCocoDataset', 'install_operators']
