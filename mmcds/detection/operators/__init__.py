"""mmcv's operators where they are not compiled: the ones that common detectors need, by torchvision's kernels.

The functions have the names, arguments and in-place results of the compiled ones.
"""

from mmcds.detection.operators.common import HOW_TO_COMPILE
from mmcds.detection.operators.install import (
    EMULATED,
    NAME,
    install_operators,
    is_emulated,
    operators_problem,
    stand_in,
)

__all__ = [
    'EMULATED',
    'HOW_TO_COMPILE',
    'NAME',
    'install_operators',
    'is_emulated',
    'operators_problem',
    'stand_in',
]
