"""RoIAlign and RoIPool by torchvision's kernels, with the names and arguments of mmcv's compiled operators."""

import torch
from torch import Tensor

from mmcds.core.errors import ConfigError
from mmcds.detection.operators.common import HOW_TO_COMPILE, working_dtype


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise ConfigError(
            "RoIAlign with pool_mode='max' is not among the emulated operators of mmcv. Use pool_mode='avg', or "
            f'compile mmcv: {HOW_TO_COMPILE}'
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Apply RoIAlign (He et al., ICCV 2017): input (N, C, H, W), rois (R, 5) -> output (R, C, height, width).

    Raises:
        ConfigError: If the mode is not the average.
    """
    _only_average(pool_mode)
    dtype = working_dtype(input.dtype)
    output.copy_(
        torch.ops.torchvision.roi_align(
            input.to(dtype), rois.to(dtype), spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` by its input to ``grad_input``."""
    _only_average(pool_mode)
    dtype = working_dtype(grad_output.dtype)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _bins(start: Tensor, end: Tensor, count: int, size: int) -> list[tuple[int, int]]:
    """Return the first and behind-last pixel of every bin of one roi along one axis."""
    width = (end - start) / count
    edges = torch.arange(count + 1, dtype=start.dtype) * width + start
    low = edges[:-1].floor().clamp(0, size).int().tolist()
    return list(zip(low, edges[1:].ceil().clamp(0, size).int().tolist(), strict=True))


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Apply RoIPool (Girshick, ICCV 2015): input (N, C, H, W), rois (R, 5) -> output, argmax (R, C, height, width).

    torchvision rounds the corners to whole pixels first, mmcv does not, so this is mmcv's formula in PyTorch: the
    maximum over the columns of each bin, then over its rows. Empty bins give 0 and argmax -1.
    """
    height, width = input.shape[2:]
    output.zero_()
    argmax.fill_(-1)
    corners = rois.detach().to('cpu', working_dtype(rois.dtype))
    low, high = corners[:, 1:3] * spatial_scale, (corners[:, 3:] + 1) * spatial_scale
    for i in range(len(rois)):
        if (high[i] <= low[i]).any():
            continue
        feature = input[int(corners[i, 0])]
        bands = _bins(low[i, 1], high[i, 1], pooled_height, height)
        for x, (left, right) in enumerate(_bins(low[i, 0], high[i, 0], pooled_width, width)):
            if left >= right:
                continue
            columns, column = feature[:, :, left:right].max(2)
            for y, (top, bottom) in enumerate(bands):
                if top >= bottom:
                    continue
                output[i, :, y, x], row = columns[:, top:bottom].max(1)
                row = row + top
                argmax[i, :, y, x] = (row * width + column.gather(1, row[:, None])[:, 0] + left).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Compute the gradient of :func:`roi_pool_forward`: what arrived at a bin goes to its largest pixel."""
    found, image = argmax.flatten(2).long(), rois[:, 0].long()
    channel = torch.arange(grad_input.shape[1], device=grad_input.device)[None, :, None]
    grad_input.flatten(2).index_put_(
        (image[:, None, None].expand_as(found), channel.expand_as(found), found.clamp(min=0)),
        grad_output.flatten(2) * (found >= 0),
        accumulate=True,
    )
