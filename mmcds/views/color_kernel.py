"""A batch on a GPU from uint8 to coloured, normalised views in one launch, by Triton.

Same arithmetic as :func:`mmcds.views.color.apply_color`, which needs a few launches for every operation and place in
the order of the jitter. What was drawn for a batch is a table (V, N, columns) that goes to the GPU in one copy.
Blurred images need three steps: the kernel with jitter and grey, the blur of PyTorch, the kernel with the rest.

One program makes one image of one view, in blocks of pixels:
    1. If contrast is drawn: a first pass applies what comes before it and sums grey levels up, for their mean.
    2. Every pixel: jitter in the drawn order, grey, solarisation, hole, channels swapped, mean and std.
No program writes where another one does, and every sum has a fixed order, so that results repeat exactly.
"""

import importlib
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mmcds.core.self_check import find_fault
from mmcds.views.color import NUM_UNIFORMS, ColorDraw, RandomColor, apply_color, blurred

try:
    import triton
    from triton import jit
    from triton import language as tl
    from triton.language import constexpr
except ImportError:  # it comes with PyTorch for GPUs alone
    constexpr = int

    def jit(function):
        """Leave a kernel as it is: :func:`usable` lets nobody call it."""
        return function


#: Largest number of pixels at a time; every thread holds 4.
BLOCK = 1024
#: Columns of the table.
COLUMNS = 14
# 0-3    operation of the jitter at each place of the order, numbered as in JITTER; -1: none
# 4-7    its factor
# 8      place of contrast; -1: not drawn
# 9      1: grey
# 10     grey level from which on pixels are inverted
# 11-13  hole: first row, first column, side


@jit
def _grey_level(red, green, blue):
    return red * 0.2989 + green * 0.587 + blue * 0.114  # GREY_WEIGHTS


@jit
def _clamp(level, highest):
    return tl.minimum(tl.maximum(level, 0.0), highest)


@jit
def _channel(value, chroma, hue, offset):
    """Return red, green or blue at a hue in turns; the offset is that of its n in ``rotate_hue``."""
    turns = hue + offset
    distance = tl.abs(turns - tl.floor(turns + 0.5))
    return value - _clamp(2.0 - 6.0 * distance, 1.0) * chroma


@jit
def _rotate_hue(red, green, blue, turns):
    """Do what :func:`mmcds.views.color.rotate_hue` does."""
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    scale = 1.0 / tl.where(chroma == 0.0, 1.0, chroma)
    other = tl.where(value == green, (blue - red) * scale + 2.0, (red - green) * scale + 4.0)
    hue = tl.where(value == red, (green - blue) * scale, other) / 6.0 + turns
    return (
        _channel(value, chroma, hue, 0.5),
        _channel(value, chroma, hue, 1.0 / 6.0),
        _channel(value, chroma, hue, -1.0 / 6.0),
    )


@jit
def _jitter(red, green, blue, row, mean, end):
    """Apply the operations at the places before ``end``; ``mean`` is the grey level of contrast."""
    for place in tl.static_range(4):
        operation = tl.where(place < end, tl.load(row + place), -1.0)
        factor = tl.load(row + 4 + place)
        if operation == 3.0:
            red, green, blue = _rotate_hue(red, green, blue, factor)
        elif operation >= 0.0:
            other = tl.where(operation == 1.0, mean, _grey_level(red, green, blue))
            rest = tl.where(operation == 0.0, 0.0, other) * (1.0 - factor)
            red = _clamp(red * factor + rest, 255.0)
            green = _clamp(green * factor + rest, 255.0)
            blue = _clamp(blue * factor + rest, 255.0)
    return red, green, blue


@jit
def _load(source, stride, pixel, pixels):
    blue = tl.load(source + pixel, mask=pixel < pixels, other=0).to(tl.float32)
    green = tl.load(source + stride + pixel, mask=pixel < pixels, other=0).to(tl.float32)
    red = tl.load(source + 2 * stride + pixel, mask=pixel < pixels, other=0).to(tl.float32)
    return red, green, blue


@jit
def _normalised(level, mean, std):
    return tl.math.div_rn(level - tl.load(mean).to(tl.float32), tl.load(std).to(tl.float32) + tl.zeros_like(level))


@jit
def _prepare_views(
    out,  # (V, N, 3, pixels), float32
    views,  # (V, N, 3, pixels), blue first
    table,  # (V, N, COLUMNS)
    mean,  # (3,)
    std,  # (3,)
    images,
    pixels,
    width,
    view_stride,
    image_stride,
    channel_stride,
    COLUMNS: constexpr,
    FIRST: constexpr,  # jitter and grey
    REST: constexpr,  # solarisation and hole
    NORMALISE: constexpr,
    SWAP: constexpr,
    BLOCK: constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    source = views + program // images * view_stride + program % images * image_stride
    target = out + program * 3 * pixels
    if FIRST or REST:
        row = table + program * COLUMNS
    lanes = tl.arange(0, BLOCK)
    grey_mean = 0.0
    if FIRST:
        contrast = tl.load(row + 8)
        if contrast >= 0.0:
            total = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, pixels, BLOCK):
                red, green, blue = _load(source, channel_stride, start + lanes, pixels)
                red, green, blue = _jitter(red, green, blue, row, 0.0, contrast)
                total += _grey_level(red, green, blue)  # lanes without a pixel are black, before contrast
            grey_mean = tl.sum(total) / pixels
    for start in range(0, pixels, BLOCK):
        pixel = start + lanes
        red, green, blue = _load(source, channel_stride, pixel, pixels)
        if FIRST:
            red, green, blue = _jitter(red, green, blue, row, grey_mean, 4)
            if tl.load(row + 9) > 0.0:
                grey = _grey_level(red, green, blue)
                red, green, blue = grey, grey, grey
        if REST:
            threshold = tl.load(row + 10)
            y = (pixel // width).to(tl.float32) - tl.load(row + 11)
            x = (pixel % width).to(tl.float32) - tl.load(row + 12)
            side = tl.load(row + 13)
            kept = (y < 0.0) | (y >= side) | (x < 0.0) | (x >= side)
            red = tl.where(kept, tl.where(red >= threshold, 255.0 - red, red), 0.0)
            green = tl.where(kept, tl.where(green >= threshold, 255.0 - green, green), 0.0)
            blue = tl.where(kept, tl.where(blue >= threshold, 255.0 - blue, blue), 0.0)
        channel_0, channel_2 = blue, red
        if SWAP:
            channel_0, channel_2 = red, blue
        if NORMALISE:
            channel_0 = _normalised(channel_0, mean, std)
            green = _normalised(green, mean + 1, std + 1)
            channel_2 = _normalised(channel_2, mean + 2, std + 2)
        tl.store(target + pixel, channel_0, mask=pixel < pixels)
        tl.store(target + pixels + pixel, green, mask=pixel < pixels)
        tl.store(target + 2 * pixels + pixel, channel_2, mask=pixel < pixels)


@torch.library.custom_op('mmcds::prepare_views', mutates_args=())
def prepare_views(
    views: Tensor,
    table: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    swap: bool,
    first: bool,
    rest: bool,
) -> Tensor:
    """Launch the kernel; see :func:`prepare`.

    Args:
        views: Blue, green and red. (V, N, 3, H, W).
        table: What was drawn, see COLUMNS. (V, N, COLUMNS), float32; needed for ``first`` and ``rest``.
        mean: Of the channels as they leave. (3, 1, 1). None: no normalisation.
        std: Likewise.
        swap: Whether red leaves first.
        first: Whether jitter and grey are applied.
        rest: Whether solarisation and Cutout are applied.

    Returns:
        (V, N, 3, H, W), float32.
    """
    out = torch.empty(views.shape, dtype=torch.float32, device=views.device)
    height, width = views.shape[3:]
    if views.stride()[3:] != (width, 1):
        views = views.contiguous()
    pixels = height * width
    block = min(BLOCK, triton.next_power_of_2(pixels))
    with torch.cuda.device_of(views):
        _prepare_views[(out.shape[0] * out.shape[1],)](
            out, views, table, mean, std, views.shape[1], pixels, width, *views.stride()[:3], COLUMNS=COLUMNS,
            FIRST=first, REST=rest, NORMALISE=mean is not None, SWAP=swap, BLOCK=block, num_warps=max(1, block // 128)
        )  # fmt: skip
    return out


@prepare_views.register_fake
def _(views, table, mean, std, swap, first, rest):
    return torch.empty(views.shape, dtype=torch.float32, device=views.device)


def _table(draws: Sequence[ColorDraw | None], colors: Sequence[RandomColor | None], shape: torch.Size) -> np.ndarray:
    """Return what was drawn for views of this shape as the kernel reads it, (V, N, COLUMNS), float32."""
    table = np.zeros((*shape[:2], COLUMNS), np.float32)
    table[:, :, [0, 1, 2, 3, 8]] = -1
    table[:, :, 10] = np.inf
    for rows, draw, color in zip(table, draws, colors, strict=True):
        if draw is None or color is None:
            continue
        in_range = np.array([bounds is not None for bounds in color.ranges])
        rows[:, :4] = np.where(draw.jitter[:, None] & in_range[draw.order], draw.order, -1)
        rows[:, 4:8] = np.take_along_axis(draw.factors, draw.order, 1)
        contrast = rows[:, :4] == 1
        rows[:, 8] = np.where(contrast.any(1), contrast.argmax(1), -1)
        rows[:, 9] = draw.grey
        rows[draw.solarize, 10] = color.solarize_threshold
        sides = np.array(shape[3:], np.float32)
        rows[:, 11:13] = np.floor(draw.centre.astype(np.float32) * sides) - color.cutout // 2
        rows[:, 13] = color.cutout
    return table


def prepare(
    views: Tensor,
    draws: Sequence[ColorDraw | None],
    colors: Sequence[RandomColor | None],
    mean: Tensor | None,
    std: Tensor | None,
    to_rgb: bool,
) -> Tensor:
    """Colour and normalise all views of a batch.

    Args:
        views: Grey levels, [0, 255], of blue, green and red, any strides. (V, N, 3, H, W).
        draws: What was drawn for each view, N rows; None for a view without colour; empty if no view has one.
        colors: What is not drawn, for each view.
        mean: Mean of the channels as they leave, (3, 1, 1); None for no normalisation.
        std: Standard deviation, likewise.
        to_rgb: Whether red leaves first.

    Returns:
        (V, N, 3, H, W), float32.
    """
    if all(draw is None for draw in draws):
        return prepare_views(views, None, mean, std, to_rgb, False, False)
    table = _table(draws, colors, views.shape)
    blurs = []  # first row among all images, images to blur and their sigmas, size of the kernel
    for number, (draw, color) in enumerate(zip(draws, colors, strict=True)):
        if draw is not None and color is not None and draw.sigma.any():
            chosen = np.flatnonzero(draw.sigma)
            blurs.append((chosen + number * len(draw.sigma), draw.sigma[chosen], color.kernel_size))
    numbers = np.concatenate([table.ravel(), *(part for rows, sigma, _ in blurs for part in (rows, sigma))])
    packed = torch.from_numpy(numbers.astype(np.float32))
    if torch.cuda.is_available():
        packed = packed.pin_memory()
    packed = packed.to(views.device, non_blocking=True)
    sent, *parts = packed.split([table.size, *(len(part) for rows, _, _ in blurs for part in (rows, rows))])
    sent = sent.view(table.shape)
    if not blurs:
        return prepare_views(views, sent, mean, std, to_rgb, True, True)
    images = prepare_views(views, sent, None, None, False, True, False)
    every = images.flatten(0, 1)
    for (_, _, kernel_size), rows, sigma in zip(blurs, parts[::2], parts[1::2], strict=True):
        index = rows.long()
        every[index] = blurred(kernel_size, every[index], sigma)
    return prepare_views(images, sent, mean, std, to_rgb, False, True)


def usable(device: torch.device) -> bool:
    """Return whether :func:`prepare` can be used: on a GPU where it gives what ``apply_color`` gives.

    This is tried once per process and device; if it fails, a warning says why. Tensors that compute nothing are
    believed.
    """
    if device.type != 'cuda':
        return False
    return torch._guards.detect_fake_mode() is not None or _agrees(device)


@cache
def _agrees(device: torch.device) -> bool:
    """Compare the kernel with ``apply_color`` on the CPU, within 0.01 grey levels."""
    reason = find_fault(device, _difference, 1e-2, 'it is {:.3g} grey levels away from apply_color'.format)
    if not reason:
        return True
    warnings.warn(
        f'The kernel that colours views cannot be used on {device} ({reason}). '
        'Operations of PyTorch are used instead.',
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def _difference(device: torch.device) -> float:
    """Return the largest difference in grey levels, of random images with everything but the blur."""
    importlib.import_module('triton')  # if it is missing, this says so
    numbers = np.random.default_rng(0)
    # solarisation at half of 255 is continuous, so that rounding shows nowhere as a jump
    ranges = ((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.5, 0.5))
    strong = RandomColor(0.9, ranges, 0.2, solarize_prob=0.5, solarize_threshold=127.5, cutout=9)
    colors = [strong, RandomColor(cutout=9)]
    draws = [color.draw(numbers.random((16, NUM_UNIFORMS))) for color in colors]
    levels = torch.from_numpy(numbers.integers(0, 256, (2, 16, 3, 33, 35), dtype=np.uint8))  # two blocks of pixels
    expected = levels.flip(2).float()
    for view, draw, color in zip(expected, draws, colors, strict=True):
        apply_color(view, draw, color)
    views, table = levels.to(device), torch.from_numpy(_table(draws, colors, levels.shape)).to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in ((1.0, 2.0, 3.0), (0.5, 0.5, 0.25)))
    whole = prepare_views(views, table, mean, std, True, True, True)
    half = prepare_views(views, table, None, None, False, True, False)
    halves = prepare_views(half, table, None, None, True, False, True)
    plain = prepare_views(views, None, None, None, False, False, False)
    pairs = [(whole * std + mean, expected), (halves, expected), (plain, levels)]
    return max((ours.cpu() - theirs).abs().max().item() for ours, theirs in pairs)
