"""NT-Xent, Equation 4 of the paper: the contrastive loss that knows no labels."""

from typing import Any

from torch import Tensor

from mmcds.core.registry import MODELS
from mmcds.losses.supcon import Classes, SupConLoss, supcon_loss


def ntxent_loss(embeddings: Tensor, temperature: float | Tensor = 0.07, **options: Any) -> Tensor:
    r"""Pull the views of an image together and push all other rows apart.

    .. math::
        L = \frac{-1}{VN} \sum_i \frac{1}{V - 1} \sum_{p \in \text{views}(i)} \log
            \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \neq i} \exp(z_i \cdot z_a / \tau)}

    Equation 4, as a mean over all anchors in both directions (the paper writes a sum over the first views), so
    that ``loss_weight`` does not depend on the batch size. It is :func:`supcon_loss` without labels.

    Args:
        embeddings: Rows of unit length, view-major. (V, N, D), V >= 2.
        temperature: tau > 0.
        **options: The keyword arguments of :func:`supcon_loss`.

    Returns:
        Scalar. Equals log(V * N - 1) when all rows are the same.

    Raises:
        ConfigError: As :func:`supcon_loss`.

    References:
        https://arxiv.org/abs/2002.05709, Algorithm 1.
    """
    return supcon_loss(embeddings, None, temperature, **options)


@MODELS.register
class NTXentLoss(SupConLoss):
    """Registered form of :func:`ntxent_loss`; arguments as :class:`SupConLoss`."""

    def forward(self, embeddings: Tensor, labels: Tensor | Classes | None = None, **options: Any) -> Tensor:
        """Return the weighted loss. Labels are accepted and unused, so that both losses fit the same config."""
        return super().forward(embeddings, None, **options)
