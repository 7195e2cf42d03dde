"""mmcv's operators where they are not compiled: the ones that common detectors need, by torchvision's kernels.

mmcv looks its operators up in the extension module ``mmcv._ext``. Where that cannot be imported (it is absent, or was
compiled against another PyTorch), :func:`install_operators` puts a module of that name in its place. The functions
below have the names, arguments and in-place results of the compiled ones.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torchvision
from mmengine.logging import MMLogger
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError

NAME = 'mmcv._ext'


def _working(dtype: torch.dtype) -> torch.dtype:
    """Half precision is computed in float32: torchvision's CPU kernels know no bfloat16."""
    return torch.promote_types(dtype, torch.float32)


def _overlaps(box: Tensor, boxes: Tensor, offset: int = 0) -> Tensor:
    """IoU (N,) of one box (4,) with boxes (N, 4), where a side measures x2 - x1 + offset."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = (high - low + offset).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    return common / ((box[2:] - box[:2] + offset).prod() + areas - common)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices (K,) of the boxes (N, 4) that no box of higher score (N,) overlaps by more than the threshold."""
    dtype = _working(torch.promote_types(boxes.dtype, scores.dtype))
    boxes = boxes.to(dtype)
    if offset:  # x2 - x1 + 1 is the side of a box that ends one pixel later
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1)
    # mmcv compares in float32, torchvision in float64, so that an overlap of exactly 0.3 would be another case
    return torch.ops.torchvision.nms(boxes, scores.to(dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., ICCV 2017): scores of overlapping boxes decay instead of the boxes being removed.

    Args:
        boxes: (N, 4), on the CPU.
        scores: (N,).
        dets: (N, 5), overwritten in its first K rows by the boxes and decayed scores.
        iou_threshold: Methods 0 and 1 touch boxes of at least this overlap.
        sigma: Width of method 2.
        min_score: Boxes whose score falls below are removed.
        method: 0 removes (hard NMS), 1 multiplies by 1 - IoU, 2 by exp(-IoU^2 / sigma).
        offset: 0 or 1, see :func:`nms`.

    Returns:
        Indices (K,) in the order of the decayed scores.
    """
    left, scores = torch.arange(len(boxes)), scores.clone()
    kept: list[int] = []
    while len(left):
        first = int(scores[left].argmax())
        best = int(left[first])
        dets[len(kept)] = torch.cat([boxes[best], scores[best : best + 1]])
        kept.append(best)
        left = torch.cat([left[:first], left[first + 1 :]])
        overlap = _overlaps(boxes[best], boxes[left], offset)
        if method == 2:
            weight = torch.exp(-overlap.square() / sigma)
        else:
            weight = torch.where(overlap >= iou_threshold, 1 - overlap if method == 1 else 0.0, 1.0)
        scores[left] *= weight
        left = left[scores[left] >= min_score]
    return torch.tensor(kept, dtype=torch.long)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of dets (N, 5): each box that NMS keeps, followed by those that it removes, by falling score."""
    left, groups = dets[:, 4].sort(descending=True, stable=True)[1], []
    while len(left):
        removed = _overlaps(dets[left[0], :4], dets[left[1:], :4]) >= iou_threshold
        groups.append([int(left[0]), *left[1:][removed].tolist()])
        left = left[1:][~removed]
    return groups


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
    """RoIAlign (He et al., ICCV 2017): input (N, C, H, W), rois (R, 5) -> output (R, C, height, width).

    Raises:
        ConfigError: If the mode is not the average.
    """
    _only_average(pool_mode)
    dtype = _working(input.dtype)
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
    """Gradient of :func:`roi_align_forward` with respect to its input, written to ``grad_input``."""
    _only_average(pool_mode)
    dtype = _working(grad_output.dtype)
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
    """First and behind-last pixel of every bin of one roi along one axis."""
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
    """RoIPool (Girshick, ICCV 2015): input (N, C, H, W), rois (R, 5) -> output and argmax (R, C, height, width).

    torchvision rounds the corners to whole pixels first, mmcv does not, so this is mmcv's formula in PyTorch: the
    maximum over the columns of each bin, then over its rows. Empty bins give 0 and argmax -1.
    """
    height, width = input.shape[2:]
    output.zero_()
    argmax.fill_(-1)
    corners = rois.detach().to('cpu', _working(rois.dtype))
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
    """Gradient of :func:`roi_pool_forward`: what arrived at a bin goes to its largest pixel."""
    found, image = argmax.flatten(2).long(), rois[:, 0].long()
    channel = torch.arange(grad_input.shape[1], device=grad_input.device)[None, :, None]
    grad_input.flatten(2).index_put_(
        (image[:, None, None].expand_as(found), channel.expand_as(found), found.clamp(min=0)),
        grad_output.flatten(2) * (found >= 0),
        accumulate=True,
    )


def _focal_parts(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits in working precision, which of them are positive, and the factor of each: (N, K) all three."""
    x = input.to(_working(input.dtype))
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    factor = x.new_full(x.shape, 1 - alpha).masked_fill(positive, alpha)
    if weight.numel():
        known = target.clamp(0, len(weight) - 1)
        factor = factor * torch.where(target == known, weight.to(factor.dtype)[known], 1.0)[:, None]
    return x, positive, factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss (Lin et al., ICCV 2017, Eq. 5) of every logit.

    Args:
        input: Logits (N, K).
        target: Classes (N,); K and everything else outside [0, K) is background, negative for all K.
        weight: Weights of the classes (K,), or empty; background weighs 1.
        output: (N, K), overwritten by the losses.
        gamma: Focusing parameter.
        alpha: Weight of positives; negatives have 1 - alpha.
    """
    x, positive, factor = _focal_parts(input, target, weight, alpha)
    x = torch.where(positive, x, -x)  # p_t = sigmoid(x)
    output.copy_(-factor * torch.sigmoid(-x) ** gamma * F.logsigmoid(x))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of :func:`sigmoid_focal_loss_forward` with respect to the logits, written to ``grad_input``."""
    x, positive, factor = _focal_parts(input, target, weight, alpha)
    sign = torch.where(positive, 1.0, -1.0).to(x.dtype)
    x = sign * x
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    grad_input.copy_(sign * factor * q**gamma * (gamma * p * F.logsigmoid(x) - q))


def _convolve(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: tuple[int, ...]
) -> tuple:
    """Arguments of torchvision's deformable convolution, which takes tensors where mmcv has none."""
    dtype = _working(input.dtype)
    return (
        input.to(dtype),
        weight.to(dtype),
        offset.to(dtype),
        input.new_zeros(len(input), 1, dtype=dtype) if mask is None else mask.to(dtype),
        input.new_zeros(len(weight), dtype=dtype) if bias is None else bias.to(dtype),
        *geometry,
        mask is not None,
    )


def _convolution_gradients(grad_output: Tensor, arguments: tuple) -> tuple[Tensor, ...]:
    """Gradients with respect to input, weight, offset, mask and bias, from the arguments of the forward pass."""
    return torch.ops.torchvision._deform_conv2d_backward(grad_output.to(arguments[0].dtype), *arguments)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (Dai et al., ICCV 2017): input (N, C, H, W) -> output (N, O, H', W')."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    output.copy_(torch.ops.torchvision.deform_conv2d(*_convolve(input, weight, offset, None, None, geometry)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` with respect to input and offset."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    arguments = _convolve(input, weight, offset, None, None, geometry)
    grads = _convolution_gradients(grad_output, arguments)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` with respect to the weight, times ``scale``."""
    geometry = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group)
    arguments = _convolve(input, grad_weight, offset, None, None, geometry)  # the values of the weight do not matter
    grads = _convolution_gradients(grad_output, arguments)
    grad_weight.copy_(scale * grads[1])


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (Zhu et al., CVPR 2019): every sample also has a weight, ``mask``."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    arguments = _convolve(input, weight, offset, mask, bias if with_bias else None, geometry)
    output.copy_(torch.ops.torchvision.deform_conv2d(*arguments))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, written to the five ``grad_`` tensors."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    arguments = _convolve(input, weight, offset, mask, bias if with_bias else None, geometry)
    grads = _convolution_gradients(grad_output, arguments)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, grad in zip(targets if with_bias else targets[:-1], grads, strict=False):
        target.copy_(grad)


def get_compiler_version() -> str:
    """What the environment table of MMDetection shows as mmcv's compiler."""
    return f'none, operators emulated by torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """What the environment table of MMDetection shows as mmcv's CUDA."""
    return 'none'


HOW_TO_COMPILE = (
    'take the source of onedl-mmcv, write -std=c++20 for -std=c++17 in its setup.py, and run pip install '
    '--no-build-isolation --no-deps . there; docs/detection.md has the recipe.'
)

_FUNCTIONS = (
    nms,
    softnms,
    nms_match,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    get_compiler_version,
    get_compiling_cuda_version,
)

#: What users know the emulated operators by.
EMULATED = (
    'nms',
    'soft_nms',
    'nms_match',
    'roi_align',
    'roi_pool',
    'sigmoid_focal_loss',
    'deform_conv2d',
    'modulated_deform_conv2d',
)


def _refused(name: str) -> Callable:
    """A function that stands for an operator without emulation: mmcv looks all names up when it is imported."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConfigError(
            f'mmcv._ext.{name} is not compiled here and is not among the emulated operators ({", ".join(EMULATED)}). '
            f'Use a model without it, or compile mmcv: {HOW_TO_COMPILE}'
        )

    return refuse


def stand_in() -> ModuleType:
    """A module with the functions above under their names, and with a refusal under any other."""
    module = ModuleType(NAME, __doc__)
    module.__spec__ = ModuleSpec(NAME, loader=None, origin=f'torchvision {torchvision.__version__}')
    for function in _FUNCTIONS:
        setattr(module, function.__name__, function)

    def lookup(name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        return _refused(name)

    module.__getattr__ = lookup  # type: ignore[method-assign]
    return module


def operators_problem() -> str | None:
    """Why mmcv's compiled operators cannot be used, in one line, or None if they can."""
    if is_emulated():
        return 'emulated'
    try:
        importlib.import_module(NAME)
    except (ImportError, OSError) as error:
        return str(error).strip().splitlines()[0]
    return None


def is_emulated() -> bool:
    """Whether the stand-in is what mmcv uses."""
    return getattr(sys.modules.get(NAME), 'nms', None) is nms


def _repeat_failed_imports() -> None:
    """Give modules that were imported too early the operators that they asked for.

    MMPretrain imports parts of MMDetection, and these put functions and classes that raise in the place of operators
    which they cannot import. Their source says which names these are: ``try: from mmcv.ops import NAME``.
    """
    for name, module in list(sys.modules.items()):
        source = getattr(module, '__file__', None) or ''
        if name.split('.')[0] not in ('mmdet', 'mmpretrain') or not source.endswith('.py'):
            continue
        text = Path(source).read_text(encoding='utf-8')
        if 'mmcv.ops' not in text:
            continue
        attempts = [node for node in ast.parse(text).body if isinstance(node, ast.Try)]
        for statement in (statement for attempt in attempts for statement in attempt.body):
            if isinstance(statement, ast.ImportFrom) and (statement.module or '').startswith('mmcv.ops'):
                origin = importlib.import_module(statement.module or '')
                for alias in statement.names:
                    setattr(module, alias.asname or alias.name, getattr(origin, alias.name))


def install_operators() -> bool:
    """Make ``mmcv.ops`` importable: compiled operators if they work, else the stand-in; safe to call again.

    Returns:
        Whether operators are emulated.
    """
    if is_emulated():
        return True
    problem = operators_problem()
    if problem is None:
        return False
    module = stand_in()
    sys.modules[NAME] = module
    importlib.import_module('mmcv')._ext = module  # type: ignore[attr-defined]
    _repeat_failed_imports()
    MMLogger.get_current_instance().info(
        f'mmcv has no working compiled operators ({problem}). Emulated by torchvision: {", ".join(EMULATED)}; any '
        'other raises an error when it is called.'
    )
    return True
