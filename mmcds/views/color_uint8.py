"""Colour, blur and Cutout of one uint8 image in a loading process, by OpenCV: for training without a GPU."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import cv2
import numpy as np

from mmcds.views.color import ColorDraw, RandomColor

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

    It differs from :func:`mmcds.views.color.apply_color` by rounding to whole grey levels after every operation,
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
        image[hole(draw, row, color.cutout, image.shape[:2])] = 0
    return image


def hole(draw: ColorDraw, row: int, length: int, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the rows and columns of the square that is cut out of an image of this height and width."""
    first = [int(share * side) - length // 2 for share, side in zip(draw.centre[row], size, strict=True)]
    top, left = (slice(max(0, start), max(0, start + length)) for start in first)
    return top, left


def apply_color_planes(images: np.ndarray, draw: ColorDraw, color: RandomColor) -> None:
    """Do to a batch in-place what :func:`apply_color_uint8` does to one image after the other.

    Args:
        images: uint8 BGR, (N, 3, H, W), each image contiguous.
        draw: What was drawn, N rows.
        color: What is not drawn.
    """
    colors = replace(color, cutout=0)
    for row in np.flatnonzero(draw.jitter | draw.grey | (draw.sigma > 0) | draw.solarize):
        planes = list(images[row])
        cv2.split(apply_color_uint8(cv2.merge(planes), draw, row, colors), planes)
    if color.cutout:
        for row, image in enumerate(images):
            rows, columns = hole(draw, row, color.cutout, image.shape[1:])
            image[:, rows, columns] = 0
