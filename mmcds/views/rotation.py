"""Rotation by quarter turns: the views of self-supervised distillation."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from mmcds.core.errors import ConfigError


@TRANSFORMS.register_module()
class RightAngleRotation(BaseTransform):
    """Rotate ``img`` by quarter turns, without interpolation.

    Put it after the crop: the views of an image must have one size, and a quarter turn swaps height and width.

    **Modified keys:** ``img``, ``img_shape``.

    Args:
        turns: Number of quarter turns counter-clockwise, 0 to 3.

    Raises:
        ConfigError: If ``turns`` is another number.
    """

    def __init__(self, turns: int) -> None:
        super().__init__()
        if turns not in range(4):
            raise ConfigError(f'RightAngleRotation: turns is {turns}; give a number of quarter turns, 0 to 3.')
        self.turns = turns

    def transform(self, results: dict) -> dict:
        """Rotate."""
        results['img'] = np.ascontiguousarray(np.rot90(results['img'], self.turns))
        results['img_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'RightAngleRotation(turns={self.turns})'
