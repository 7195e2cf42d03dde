"""Sums of scores over positives, from one sum of rows per class: no pair of rows is ever looked at."""

from typing import Any

import torch
from torch import Tensor

from mmcds.losses.blockwise import refuse_second_derivative


class _ClassScores(torch.autograd.Function):
    """See :func:`class_scores`. Written out because plain autograd would pass over the rows twice as often."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ids: Tensor, num_classes: int, own: Tensor | None) -> Tensor:
        sums = rows.new_zeros(num_classes, rows.shape[1]).index_add_(0, ids, rows)
        anchors, own_ids = (rows, ids) if own is None else (rows.index_select(0, own), ids.index_select(0, own))
        others = sums.index_select(0, own_ids).sub_(anchors)
        ctx.save_for_backward(rows, ids, own, others)
        ctx.num_classes = num_classes
        return (others * anchors).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, ids, own, others = ctx.saved_tensors
        with torch.no_grad():
            anchors, own_ids = (rows, ids) if own is None else (rows.index_select(0, own), ids.index_select(0, own))
            pulls = anchors * grad[:, None]  # what an anchor does to every other row of its class
            sums = rows.new_zeros(ctx.num_classes, rows.shape[1]).index_add_(0, own_ids, pulls)
            found = sums.index_select(0, ids)
            if own is None:
                found.sub_(pulls).addcmul_(others, grad[:, None])
            else:
                found.index_add_(0, own, (others * grad[:, None]).sub_(pulls))
        return refuse_second_derivative(found, rows, grad), None, None, None


def class_scores(rows: Tensor, ids: Tensor, num_classes: int, own: Tensor | None = None) -> Tensor:
    r"""Sum the scores of every anchor with the other rows of its class, :math:`x_i \cdot (\sum_{c(i)} x - x_i)`.

    Args:
        rows: Rows x. (M, D).
        ids: Class of every row, 0 to C - 1. (M,), int64.
        num_classes: C.
        own: Numbers of the rows that are anchors. (A,), int64. Default: all.

    Returns:
        One sum per anchor. (A,).

    Raises:
        RuntimeError: When it is differentiated twice.
    """
    return _ClassScores.apply(rows, ids, num_classes, own)
