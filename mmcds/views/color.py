"""Colour, blur and Cutout of views: what is drawn for an image, and what is done to a batch with it.

The distributions are those of the released code (torchvision's ``ColorJitter`` in random order, ``RandomGrayscale``,
Gaussian blur, solarisation, one square hole). What is drawn lies in a :class:`ColorDraw`; everything else is a pure
function of images and draws: :func:`apply_color` here on a batch, on any device,
:func:`mmcds.views.color_kernel.prepare` on a GPU in one launch, and
:func:`mmcds.views.color_uint8.apply_color_uint8` on one image in a loading process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

#: Operations of the jitter, in the order in which ``factors`` lists them and ``order`` numbers them.
JITTER = ('brightness', 'contrast', 'saturation', 'hue')
#: Share of red, green and blue in a grey level, ITU-R BT.601 as torchvision rounds it.
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
#: Uniform numbers that one image and view use up.
NUM_UNIFORMS = 15


class ColorDraw(NamedTuple):
    """What was drawn for N images; every array has N rows.

    Attributes:
        jitter: Whether the jitter is applied. (N,), bool.
        order: Its operations, numbered as in :data:`JITTER`, first to last. (N, 4).
        factors: Brightness, contrast, saturation (1 changes nothing) and hue (in turns of the colour circle, 0
            changes nothing). (N, 4).
        grey: Whether the image becomes grey. (N,), bool.
        sigma: Standard deviation of the blur in pixels; 0 means none. (N,).
        solarize: Whether bright pixels are inverted. (N,), bool.
        centre: Centre of the hole, row and column, as a share of height and width in [0, 1). (N, 2).
    """

    jitter: np.ndarray
    order: np.ndarray
    factors: np.ndarray
    grey: np.ndarray
    sigma: np.ndarray
    solarize: np.ndarray
    centre: np.ndarray


@dataclass(frozen=True)
class RandomColor:
    """Distribution of the colour of one view; the operations come in the order of the attributes.

    Attributes:
        jitter_prob: Probability of the jitter.
        ranges: Lowest and highest factor of each operation of :data:`JITTER`; None leaves it out.
        grey_prob: Probability of grey levels.
        blur_prob: Probability of the blur.
        blur_sigma: Lowest and highest standard deviation of the blur, in pixels.
        solarize_prob: Probability of solarisation.
        solarize_threshold: Grey level from which on pixels are inverted.
        cutout: Side of the square hole in pixels; 0 means none.
    """

    jitter_prob: float = 0.0
    ranges: tuple[tuple[float, float] | None, ...] = (None, None, None, None)
    grey_prob: float = 0.0
    blur_prob: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_prob: float = 0.0
    solarize_threshold: float = 128.0
    cutout: int = 0

    @property
    def kernel_size(self) -> int:
        """Return the odd number of pixels that hold three standard deviations of the widest blur on each side."""
        return 2 * int(np.ceil(3 * self.blur_sigma[1])) + 1

    def draw(self, uniforms: np.ndarray) -> ColorDraw:
        """Turn uniform numbers into parameters.

        Args:
            uniforms: Numbers in [0, 1), (N, :data:`NUM_UNIFORMS`).
        """
        u = uniforms.T
        factors = np.empty((len(uniforms), 4))
        for column, (bounds, neutral) in enumerate(zip(self.ranges, (1.0, 1.0, 1.0, 0.0), strict=True)):
            low, high = bounds or (neutral, neutral)
            factors[:, column] = low + (high - low) * u[1 + column]
        low, high = self.blur_sigma
        return ColorDraw(
            jitter=u[0] < self.jitter_prob,
            order=uniforms[:, 5:9].argsort(axis=1),  # ranks of four uniform numbers: every order equally often
            factors=factors,
            grey=u[9] < self.grey_prob,
            sigma=np.where(u[10] < self.blur_prob, low + (high - low) * u[11], 0.0),
            solarize=u[12] < self.solarize_prob,
            centre=uniforms[:, 13:15],
        )


def _scramble(state: np.ndarray) -> np.ndarray:
    """Mix all 64 bits by a bijection, the finaliser of SplitMix64 (https://doi.org/10.1145/2714064.2660195)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def keyed_uniforms(seed: int, step: int, sample_idx: np.ndarray, view: int, count: int = NUM_UNIFORMS) -> np.ndarray:
    """Return uniform numbers that depend on seed, step, sample and view, and on nothing else.

    No stream is shared: an image gets the same numbers wherever it stands in the batch, on whichever rank, and
    after a run was resumed.

    Args:
        seed: Seed of the run.
        step: Number of the training step.
        sample_idx: Index of every image in its data set, (N,).
        view: Number of the view.
        count: Numbers per image.

    Returns:
        Numbers in [0, 1), (N, count), float64.
    """
    step_length = np.uint64(0x9E3779B97F4A7C15)
    state = np.full((len(sample_idx), 1), seed % 2**64, dtype=np.uint64)
    for part in (np.full_like(state, step), sample_idx.astype(np.uint64)[:, None], np.full_like(state, view)):
        state = _scramble((state ^ part) + step_length)
    counter = np.arange(1, count + 1, dtype=np.uint64)[None]
    return (_scramble(state + counter * step_length) >> np.uint64(11)) * 2.0**-53


def grey_levels(images: Tensor) -> Tensor:
    """Return the weighted mean of red, green and blue. (N, 3, H, W) to (N, 1, H, W)."""
    red, green, blue = images.unbind(1)
    grey = red * GREY_WEIGHTS[0]
    return grey.add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])[:, None]


def _blend(images: Tensor, other: Tensor | None, factor: Tensor) -> Tensor:
    """Move in-place away from ``other`` (None: black) by ``factor``, and clamp."""
    images.mul_(factor)
    if other is not None:
        images.add_(other * (1 - factor))
    return images.clamp_(0, 255)


def rotate_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV colour.

    Value and chroma stay; each channel is value - chroma * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 hue) mod 6 and
    n = 5, 3, 1 for red, green, blue, which is HSV to RGB without its six cases. min(k, 4 - k) is 2 less the distance
    of k from 2 on the circle.

    Args:
        images: RGB, in any unit, (N, 3, H, W).
        turns: Angle in turns, broadcastable to (N, 1, H, W).
    """
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    scale = 1 / torch.where(chroma == 0, 1, chroma)
    sixths = torch.where(
        value == red,
        (green - blue) * scale,
        torch.where(value == green, (blue - red) * scale + 2, (red - green) * scale + 4),
    )
    hue = sixths[:, None] / 6 + turns
    offset = (3 - 2 * torch.arange(3, device=images.device, dtype=images.dtype)).view(1, 3, 1, 1) / 6
    distance = hue + offset  # of k from 2, in turns
    distance.sub_(distance.round()).abs_()
    share = distance.mul_(-6).add_(2).clamp_(0, 1)
    return value[:, None] - share.mul_(chroma[:, None])


def _jittered(operation: int, images: Tensor, factor: Tensor) -> Tensor:
    """Apply one operation of the jitter to images that may be written to."""
    if operation == 0:
        return _blend(images, None, factor)
    if operation == 1:
        return _blend(images, grey_levels(images).mean((2, 3), keepdim=True), factor)
    if operation == 2:
        return _blend(images, grey_levels(images), factor)
    return rotate_hue(images, factor)


def _greyed(images: Tensor, _: Tensor) -> Tensor:
    """Return grey levels on three channels."""
    return grey_levels(images).expand(-1, 3, -1, -1)


def _solarized(threshold: float, images: Tensor, _: Tensor) -> Tensor:
    """Invert bright pixels."""
    return torch.where(images >= threshold, 255 - images, images)


def blurred(kernel_size: int, images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian, with a width of its own for every image, border pixels reflected."""
    count, channels, height, width = images.shape
    half = min(kernel_size // 2, height - 1, width - 1)
    offset = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None]
    padded = F.pad(images, (half, half, half, half), mode='reflect').view(1, count * channels, height + 2 * half, -1)
    across = F.conv2d(padded, kernel[:, :, None], groups=count * channels)
    return F.conv2d(across, kernel[..., None], groups=count * channels).view(count, channels, height, width)


def _cut(images: Tensor, centre: Tensor, length: int) -> None:
    """Blacken a square around each centre (N, 2) in-place; see :class:`mmcds.views.CenteredCutout`."""
    masks = []
    for axis, side in enumerate(images.shape[2:]):
        first = (centre[:, axis, None] * side).floor() - length // 2
        pixel = torch.arange(side, device=images.device)
        masks.append((pixel >= first) & (pixel < first + length))
    images.masked_fill_((masks[0][:, :, None] & masks[1][:, None, :])[:, None], 0)


def apply_color(images: Tensor, draw: ColorDraw, color: RandomColor) -> Tensor:
    """Apply to every image what was drawn for it.

    1. On the CPU: which images an operation is for, and the number that was drawn for each of them.
    2. All of that goes to the device in two copies, which nothing waits for.
    3. Each operation runs once, on the images that it is for, without rounding to whole grey levels in between.

    Args:
        images: RGB in grey levels, [0, 255], floating point; written to. (N, 3, H, W).
        draw: What was drawn, N rows.
        color: What is not drawn: solarisation threshold, size of kernel and hole.

    Returns:
        ``images``.
    """
    tasks: list[tuple[Callable[[Tensor, Tensor], Tensor], np.ndarray, np.ndarray]] = []

    def plan(operation: Callable[[Tensor, Tensor], Tensor], chosen: np.ndarray, numbers: np.ndarray) -> None:
        if len(chosen):
            tasks.append((operation, chosen, numbers[chosen]))

    jittered = np.flatnonzero(draw.jitter)
    for place in draw.order[jittered].T:
        for operation in range(4):
            if color.ranges[operation] is not None:
                own = partial(_jittered, operation)
                plan(own, jittered[place == operation], draw.factors[:, operation])
    plan(_greyed, np.flatnonzero(draw.grey), draw.sigma)
    plan(partial(blurred, color.kernel_size), np.flatnonzero(draw.sigma), draw.sigma)
    plan(partial(_solarized, color.solarize_threshold), np.flatnonzero(draw.solarize), draw.sigma)
    holes = draw.centre.ravel() if color.cutout else np.empty(0)
    sizes = [len(chosen) for _, chosen, _ in tasks]
    rows = np.concatenate([np.empty(0, np.int64), *(chosen for _, chosen, _ in tasks)])
    index = torch.from_numpy(rows).to(images.device, non_blocking=True).split(sizes)
    numbers = np.concatenate([*(values for _, _, values in tasks), holes])
    sent = torch.from_numpy(numbers).to(images.device, images.dtype, non_blocking=True)
    *values, centres = sent.split([*sizes, len(holes)])
    for (function, _, _), chosen, value in zip(tasks, index, values, strict=True):
        images[chosen] = function(images[chosen], value[:, None, None, None])
    if color.cutout:
        _cut(images, centres.view(-1, 2), color.cutout)
    return images
