"""Cutout as the released code draws it."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

import numpy as np
from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from mmcds.core.errors import ConfigError


@TRANSFORMS.register_module()
class CenteredCutout(BaseTransform):
    """Blacken one square whose centre is uniform over all pixels; the square is clipped at the borders.

    MMPretrain's ``Cutout`` never makes the hole smaller at the top and left border, this one does, as in
    https://arxiv.org/abs/1708.04552 and in the released CDS code. Its place before normalisation gives the same
    pixels as theirs, because they cut before they normalise too.

    **Modified keys:** ``img``.

    Args:
        length: Side of the square in pixels.

    Raises:
        ConfigError: If ``length`` is not positive.
    """

    def __init__(self, length: int = 16) -> None:
        super().__init__()
        if length <= 0:
            raise ConfigError(f'CenteredCutout: length is {length} pixels; give a positive length or remove it.')
        self.length = length

    def transform(self, results: dict) -> dict:
        """Cut a copy; the array that came in stays as it was."""
        image = results['img'].copy()
        top, left = (np.random.randint(side) - self.length // 2 for side in image.shape[:2])
        image[max(0, top) : max(0, top + self.length), max(0, left) : max(0, left + self.length)] = 0
        results['img'] = image
        return results

    def __repr__(self) -> str:
        return f'CenteredCutout(length={self.length})'
