"""Colour, blur and Cutout of one uint8 image in a loading process, by OpenCV: for training without a GPU."""

from collections.abc import Sequence
from typing import cast

import cv2
import numpy as np

from mmcds.transforms.color import ColorDraw, RandomColor

#: Share of blue, green and red in a grey level; see GREY_WEIGHTS.
_GREY_ROW = np.array([0.114, 0.587, 0.299])
_ONE = np.eye(3)
_LEVELS = np.arange(256)


def _jittered(image: np.ndarray, operation: int, factor: float) -> np.ndarray:
    if operation == 0:
        return cv2.convertScaleAbs(image, alpha=factor)  # rounds and saturates; nothing is negative
    if operation == 1:
        mean = cast('Sequence[float]', cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)))[0]
        offset = np.full((3, 1), (1 - factor) * mean)
        return cv2.transform(image, np.hstack([factor * _ONE, offset]))
    if operation == 2:
        return cv2.transform(image, factor * _ONE + (1 - factor) * _GREY_ROW)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)  # hue from 0 to 255, so that uint8 wraps as the hue does
    hue = hsv[..., 0]
    np.add(hue, round(256 * factor) % 256, out=hue, casting='unsafe')
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)


def apply_color_uint8(image: np.ndarray, draw: ColorDraw, row: int, color: RandomColor) -> np.ndarray:
    """Apply to one image what was drawn for it; the image that came in stays as it was.

    It differs from :func:`mmcds.transforms.color.apply_color` by rounding to whole grey levels after every operation,
    and by OpenCV's hue, which knows 256 angles.

    Args:
        image: uint8 BGR, (H, W, 3).
        draw: What was drawn for a batch.
        row: Row of this image in it.
        color: What is not drawn.

    Returns:
        uint8 BGR, (H, W, 3).
    """
    if draw.jitter[row]:
        factors = draw.factors[row]
        for operation in draw.order[row]:
            if color.ranges[operation] is not None:
                image = _jittered(image, operation, factors[operation])
    if draw.grey[row]:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if draw.sigma[row]:
        side = min(color.kernel_size, 2 * min(image.shape[:2]) - 1)
        image = cv2.GaussianBlur(image, (side, side), draw.sigma[row], borderType=cv2.BORDER_REFLECT_101)
    if draw.solarize[row]:
        table = np.where(color.solarize_threshold <= _LEVELS, 255 - _LEVELS, _LEVELS).astype(np.uint8)
        image = cv2.LUT(image, table)
    if color.cutout:
        image = image.copy()
        top, left = (
            int(share * side) - color.cutout // 2 for share, side in zip(draw.centre[row], image.shape, strict=False)
        )
        image[max(0, top) : max(0, top + color.cutout), max(0, left) : max(0, left + color.cutout)] = 0
    return image
