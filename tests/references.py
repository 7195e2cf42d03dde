"""The contrastive losses as the papers write them, in plain loops: the formulas that tests compare with."""

import math

import torch
from torch import Tensor


def contrastive_reference(
    embeddings: Tensor,
    labels: Tensor | None = None,
    temperature=0.07,
    positives='out',
    weights: Tensor | None = None,
    exclude=(),
) -> Tensor:
    """SupCon (Equations 2 and 3 of its paper), anchor by anchor; labels None is NT-Xent."""
    views, images, width = embeddings.shape
    rows = embeddings.reshape(views * images, width)
    excluded = {frozenset(map(int, pair)) for pair in exclude}
    total, norm = rows.new_zeros(()), rows.new_zeros(())
    for i in range(views * images):
        others, mates = [], []
        for j in range(views * images):
            if i == j or frozenset((i % images, j % images)) in excluded:
                continue
            score = (rows[i] * rows[j]).sum() / temperature
            others.append(score)
            same_class = labels is not None and labels[i % images] >= 0 and labels[i % images] == labels[j % images]
            if i % images == j % images or same_class:
                mates.append(score)
        if not mates:
            continue
        if weights is None:
            weight = 1.0
        else:
            weight = weights[i % images] if weights.ndim == 1 else weights[i // images, i % images]
        log_likelihood = torch.stack(mates) - torch.stack(others).logsumexp(0)
        value = -log_likelihood.mean() if positives == 'out' else math.log(len(mates)) - log_likelihood.logsumexp(0)
        total, norm = total + weight * value, norm + weight
    return total / norm if norm > 0 else rows.sum() * 0
