"""Suppression of overlapping boxes, with the names and arguments of mmcv's compiled operators."""

import numpy as np
import torch
from torch import Tensor

from mmcds.detection.operators.common import working_dtype


def _overlaps(box: Tensor, boxes: Tensor, offset: int = 0) -> Tensor:
    """Return the IoU (N,) of one box (4,) with boxes (N, 4), where a side measures x2 - x1 + offset."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = (high - low + offset).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    return common / ((box[2:] - box[:2] + offset).prod() + areas - common)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return indices (K,) of boxes (N, 4) that no box of higher score (N,) overlaps by more than the threshold."""
    dtype = working_dtype(torch.promote_types(boxes.dtype, scores.dtype))
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
    """Let the scores of overlapping boxes decay instead of removing the boxes (Bodla et al., ICCV 2017).

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
    """Group dets (N, 5): each box that NMS keeps, followed by those that it removes, by falling score."""
    left, groups = dets[:, 4].sort(descending=True, stable=True)[1], []
    while len(left):
        removed = _overlaps(dets[left[0], :4], dets[left[1:], :4]) >= iou_threshold
        groups.append([int(left[0]), *left[1:][removed].tolist()])
        left = left[1:][~removed]
    return groups
