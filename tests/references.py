"""The contrastive losses as the papers write them, in plain loops: the formulas that tests compare with."""

import math

import torch
from torch import Tensor


def contrastive_reference(
    embeddings: Tensor,
    labels: Tensor | None = None,
    temperature=0.07,
    positives='out',
) -> Tensor:
    """SupCon (Equations 2 and 3 of its paper), anchor by anchor; labels None is NT-Xent."""
    views, images, width = embeddings.shape
    rows = embeddings.reshape(views * images, width)
    total = rows.new_zeros(())
    for i in range(views * images):
        others, mates = [], []
        for j in range(views * images):
            if i == j:
                continue
            score = (rows[i] * rows[j]).sum() / temperature
            others.append(score)
            same_class = labels is not None and labels[i % images] >= 0 and labels[i % images] == labels[j % images]
            if i % images == j % images or same_class:
                mates.append(score)
        log_likelihood = torch.stack(mates) - torch.stack(others).logsumexp(0)
        value = -log_likelihood.mean() if positives == 'out' else math.log(len(mates)) - log_likelihood.logsumexp(0)
        total = total + value
    return total / (views * images)
