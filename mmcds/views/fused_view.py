"""One view in one step: the usual pipeline of MMPretrain's transforms, recognised and run without its overhead."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import RandomApply, RandomFlip, RandomGrayscale
from mmpretrain.datasets.transforms import ColorJitter, GaussianBlur, RandomCrop, RandomResizedCrop, Solarize

from mmcds.views.color import GREY_WEIGHTS, ColorDraw, RandomColor
from mmcds.views.color_uint8 import apply_color_uint8
from mmcds.views.cutout import CenteredCutout
from mmcds.views.keyed import seed_streams

#: Uniform numbers that crop and flip of an image in a batch use up.
NUM_SHAPE = 3

_INTERPOLATION = dict(
    nearest=cv2.INTER_NEAREST,
    bilinear=cv2.INTER_LINEAR,
    bicubic=cv2.INTER_CUBIC,
    area=cv2.INTER_AREA,
    lanczos=cv2.INTER_LANCZOS4,
)


@dataclass(frozen=True)
class FusedView:
    """Crop, flip and colour of one view.

    Crop and flip draw the same numbers from NumPy's stream as MMPretrain's transforms and give the same pixels.

    Attributes:
        crop: MMPretrain's crop, which draws; None leaves the size as it is.
        flip: Probability of a horizontal flip.
        color: Distribution of the rest; None if there is none.
    """

    crop: RandomCrop | RandomResizedCrop | None
    flip: float
    color: RandomColor | None

    def shape(self, image: np.ndarray) -> np.ndarray:
        """Crop, resize and flip one image, (H, W, 3) uint8 to (h, w, 3)."""
        if isinstance(self.crop, RandomCrop):
            if self.crop.padding is not None:
                left, top, right, bottom = _sides(self.crop.padding)
                image = cv2.copyMakeBorder(
                    image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=_fill(self.crop).tolist()
                )
            y, x, height, width = self.crop.rand_crop_params(image)
            image = image[y : y + height, x : x + width]
        elif self.crop is not None:
            y, x, height, width = self.crop.rand_crop_params(image)
            image = cv2.resize(
                image[y : y + height, x : x + width],
                tuple(self.crop.scale[::-1]),
                interpolation=_INTERPOLATION[self.crop.interpolation],
            )
        if self.flip and np.random.random() < self.flip:
            image = cv2.flip(image, 1)
        return image

    def shape_batch(self, images: np.ndarray, out: np.ndarray, uniforms: np.ndarray) -> None:
        """Crop and flip many images of one size at once.

        Args:
            images: uint8, (N, 3, H, W); its memory may repeat.
            out: uint8 array to fill, (N, 3, h, w).
            uniforms: Numbers in [0, 1) that decide, (N, :data:`NUM_SHAPE`).
        """
        count = len(images)
        if isinstance(self.crop, RandomResizedCrop):
            bits = (uniforms[:, 0] * 2**53).astype(np.int64).tolist()  # MMPretrain's crop draws from NumPy's stream
            for image, planes, state in zip(images, out, bits, strict=True):
                seed_streams(state)
                cv2.split(self.shape(np.ascontiguousarray(image.transpose(1, 2, 0))), list(planes))
            return
        if self.crop is not None and self.crop.padding is not None:
            left, top, right, bottom = _sides(self.crop.padding)
            height, width = images.shape[2:]
            padded = np.empty((count, 3, height + top + bottom, width + left + right), np.uint8)
            padded[:] = _fill(self.crop)[:, None, None]
            padded[:, :, top : top + height, left : left + width] = images
            images = padded
        height, width = out.shape[2:]
        tops = (uniforms[:, 0] * (images.shape[2] - height + 1)).astype(int)
        lefts = (uniforms[:, 1] * (images.shape[3] - width + 1)).astype(int)
        flipped = uniforms[:, 2] < self.flip
        for target, image, top, left, flip in zip(out, images, tops.tolist(), lefts.tolist(), flipped, strict=True):
            part = image[:, top : top + height, left : left + width]
            target[:] = part[..., ::-1] if flip else part

    def batch_size_of_view(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the view of images of this size."""
        if isinstance(self.crop, RandomResizedCrop):
            return tuple(self.crop.scale)
        if self.crop is None:
            return height, width
        if self.crop.padding is not None:
            left, top, right, bottom = _sides(self.crop.padding)
            height, width = height + top + bottom, width + left + right
        return min(height, self.crop.crop_size[0]), min(width, self.crop.crop_size[1])

    def draw_color(self, uniforms: np.ndarray) -> ColorDraw | None:
        """Return the colour of N images for numbers in [0, 1), (N, NUM_UNIFORMS)."""
        return None if self.color is None else self.color.draw(uniforms)

    def recolor(self, image: np.ndarray, draw: ColorDraw | None, row: int = 0) -> np.ndarray:
        """Apply what was drawn to one image, (h, w, 3) uint8 BGR."""
        return image if draw is None or self.color is None else apply_color_uint8(image, draw, row, self.color)


def _sides(padding: int | Sequence[int]) -> Sequence[int]:
    """Return left, top, right and bottom padding, as MMPretrain writes it."""
    if isinstance(padding, int):
        return (padding,) * 4
    return padding if len(padding) == 4 else (padding[0], padding[1]) * 2


def _fill(crop: RandomCrop) -> np.ndarray:
    """Return the value of the padding for every channel, (3,)."""
    return np.broadcast_to(np.asarray(crop.pad_val), 3)


def _is_crop(step: Any) -> bool:
    if type(step) is RandomResizedCrop:
        return step.backend == 'cv2'
    return type(step) is RandomCrop and not step.pad_if_needed and step.padding_mode == 'constant'


def _is_flip(step: Any) -> bool:
    return type(step) is RandomFlip and step.direction == 'horizontal' and isinstance(step.prob, float)


def _is_jitter(step: Any) -> bool:
    return type(step) is ColorJitter and step.backend == 'cv2'


def _is_grey(step: Any) -> bool:
    if type(step) is not RandomGrayscale or not step.keep_channels or step.color_format != 'bgr':
        return False
    return np.allclose(step.channel_weights, GREY_WEIGHTS[::-1], atol=1e-3)


def _is_blur(step: Any) -> bool:
    return type(step) is GaussianBlur and (step.radius is not None or step.magnitude_std == 'inf')


def _is_solarize(step: Any) -> bool:
    return type(step) is Solarize and step.thr is not None


def _is_cutout(step: Any) -> bool:
    return type(step) is CenteredCutout


def _settings(step: Any) -> dict:
    """Return the arguments of RandomColor that one transform stands for."""
    if isinstance(step, RandomApply):
        return {**_settings(step.transforms.transforms[0]), 'jitter_prob': step.prob}
    if isinstance(step, ColorJitter):
        return dict(jitter_prob=1.0, ranges=(step.brightness, step.contrast, step.saturation, step.hue))
    if isinstance(step, RandomGrayscale):
        return dict(grey_prob=step.prob)
    if isinstance(step, GaussianBlur):
        if step.radius is not None:
            return dict(blur_prob=step.prob, blur_sigma=(step.radius, step.radius))
        low, high = step.magnitude_range
        return dict(
            blur_prob=step.prob, blur_sigma=(low, low + step.magnitude_level / step.total_level * (high - low))
        )
    if isinstance(step, Solarize):
        return dict(solarize_prob=step.prob, solarize_threshold=step.thr)
    assert isinstance(step, CenteredCutout)
    return dict(cutout=step.length)


def fuse(steps: Sequence[Callable]) -> FusedView | None:
    """Recognise a view of the usual steps.

    They are, each at most once and in this order, ``RandomCrop`` or ``RandomResizedCrop``, ``RandomFlip``
    (horizontal), ``ColorJitter`` (may stand in ``RandomApply``), ``RandomGrayscale``, ``GaussianBlur``,
    ``Solarize``, ``CenteredCutout``; with OpenCV as backend where there is a choice, and the grey weights of the
    released code.

    Args:
        steps: Built transforms.

    Returns:
        The view, or None if anything else is among the steps.
    """

    def is_jitter(step: Any) -> bool:
        if type(step) is RandomApply:
            return len(step.transforms.transforms) == 1 and _is_jitter(step.transforms.transforms[0])
        return _is_jitter(step)

    kinds = (_is_crop, _is_flip, is_jitter, _is_grey, _is_blur, _is_solarize, _is_cutout)
    found: list[Any] = [None] * len(kinds)
    place = 0
    for step in steps:
        while place < len(kinds) and not kinds[place](step):
            place += 1
        if place == len(kinds):
            return None
        found[place] = step
        place += 1
    crop, flip, *colors = found
    settings: dict = {}
    for color in colors:
        if color is not None:
            settings.update(_settings(color))
    return FusedView(crop, flip.prob if flip is not None else 0.0, RandomColor(**settings) if settings else None)
