"""Deformable convolutions by torchvision's kernels, with the names and arguments of mmcv's compiled operators."""

import torch
from torch import Tensor

from mmcds.detection.operators.common import working_dtype


def _convolve(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: tuple[int, ...]
) -> tuple:
    """Return the arguments of torchvision's deformable convolution, which takes tensors where mmcv has none."""
    dtype = working_dtype(input.dtype)
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
    """Compute gradients by input, weight, offset, mask and bias, from the arguments of the forward pass."""
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
    """Convolve at moved places (Dai et al., ICCV 2017): input (N, C, H, W) -> output (N, O, H', W')."""
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
    """Compute the gradient of :func:`deform_conv_forward` with respect to input and offset."""
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
    """Compute the gradient of :func:`deform_conv_forward` with respect to the weight, times ``scale``."""
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
    """Convolve at moved places (Zhu et al., CVPR 2019) where every sample also has a weight, ``mask``."""
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
    """Compute the gradients of :func:`modulated_deform_conv_forward`, written to the five ``grad_`` tensors."""
    geometry = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group)
    arguments = _convolve(input, weight, offset, mask, bias if with_bias else None, geometry)
    grads = _convolution_gradients(grad_output, arguments)
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, grad in zip(targets if with_bias else targets[:-1], grads, strict=False):
        target.copy_(grad)
