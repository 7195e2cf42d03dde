"""Sigmoid focal loss, with the names and arguments of mmcv's compiled operators."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.detection.operators.common import working_dtype


def _focal_parts(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits in working precision, which of them are positive, and the factor of each: (N, K) all three."""
    x = input.to(working_dtype(input.dtype))
    positive = target[:, None] == torch.arange(input.shape[1], device=input.device)
    factor = x.new_full(x.shape, 1 - alpha).masked_fill(positive, alpha)
    if weight.numel():
        known = target.clamp(0, len(weight) - 1)
        factor = factor * torch.where(target == known, weight.to(factor.dtype)[known], 1.0)[:, None]
    return x, positive, factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss (Lin et al., ICCV 2017, Eq. 5) of every logit.

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
    """Write the derivative of :func:`sigmoid_focal_loss_forward` by the logits to ``grad_input``."""
    x, positive, factor = _focal_parts(input, target, weight, alpha)
    sign = torch.where(positive, 1.0, -1.0).to(x.dtype)
    x = sign * x
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    grad_input.copy_(sign * factor * q**gamma * (gamma * p * F.logsigmoid(x) - q))
