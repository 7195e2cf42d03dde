"""What is watched beside the contrastive loss: alignment, uniformity and contrastive top-1 accuracy."""

import torch
from torch import Tensor

SUBSET = 256


def alignment(embeddings: Tensor) -> Tensor:
    """Return the mean squared distance between the views of an image, in [0, 4]; 0 if all views agree.

    Args:
        embeddings: Rows of unit length. (V, N, D), V >= 2.

    References:
        https://arxiv.org/abs/2005.10242, Section 4.1, with alpha = 2.
    """
    views = len(embeddings)
    centred = embeddings - embeddings.mean(0)
    return centred.square().sum(dim=(0, 2)).mean() * (2 / (views - 1))


def uniformity(embeddings: Tensor) -> Tensor:
    """Return the logarithm of the mean of exp(-2 d^2) over the distances d of different images, per view; at most 0.

    0 if all rows are the same, lower the more evenly the rows cover the sphere. With a single image, 0.

    Args:
        embeddings: Rows of unit length. (V, N, D).

    References:
        https://arxiv.org/abs/2005.10242, Section 4.1, with t = 2.
    """
    return _uniformity(embeddings @ embeddings.transpose(1, 2))


def _uniformity(cosine: Tensor) -> Tensor:
    count = cosine.shape[-1]
    if count < 2:
        return cosine.new_zeros(())
    kernel = (4 * cosine.clamp(-1, 1) - 4).exp()  # d^2 = 2 - 2 cos
    kernel.diagonal(dim1=-2, dim2=-1).zero_()
    return (kernel.sum() / (kernel.numel() - kernel.shape[:-1].numel())).log()


@torch.no_grad()
def contrast_metrics(embeddings: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Return the values to log, from the first 256 images at most, so that the cost does not grow with the batch.

    Args:
        embeddings: Rows of unit length. (V, N, D), V >= 2.
        labels: -1 = unlabelled. (N,).

    Returns:
        ``alignment``; ``uniformity`` of view 0; and ``contrast_top1``, the percentage of the rows of view 0
        whose nearest other row is positive (same image, or same class).
    """
    rows = embeddings.detach()[:, :SUBSET].to(torch.promote_types(embeddings.dtype, torch.float32))
    images = rows.shape[1]
    with torch.autocast(rows.device.type, enabled=False):
        cosine = rows[0] @ rows.flatten(0, 1).t()
        uniform = _uniformity(cosine[:, :images])
        cosine.fill_diagonal_(-torch.inf)
        nearest = cosine.argmax(1) % images
        own = torch.arange(images, device=rows.device)
        correct = nearest == own
        if labels is not None:
            labels = labels[:images]
            correct |= (labels >= 0) & (labels[nearest] == labels)
        return dict(alignment=alignment(rows), uniformity=uniform, contrast_top1=100 * correct.to(rows.dtype).mean())
