"""SINCERE: the supervised contrastive loss whose denominator has no other positives of the anchor."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import at_least_float32
from mmcds.core.registry import MODELS
from mmcds.losses.supcon import Classes, SupConLoss, check_rows, number_classes


def sincere_loss(
    embeddings: Tensor,
    labels: Tensor | Classes | None = None,
    temperature: float | Tensor = 0.07,
    *,
    local: slice | None = None,
    num_ranks: int = 1,
    unit_rows: bool = False,
) -> Tensor:
    r"""Pull images of one class together and push those of other classes apart.

    With the positives P(i) of a row and the rows N(i) of other classes,

    .. math::
        L_i = \frac{-1}{|P(i)|} \sum_{p \in P(i)} \log
            \frac{\exp(s_{ip})}{\exp(s_{ip}) + \sum_{n \in N(i)} \exp(s_{in})}, \qquad s_{ij} = z_i \cdot z_j / \tau,

    averaged over all anchors. :func:`mmcds.losses.supcon_loss` has the other positives in the denominator too, so that
    it also pushes positives apart. Without labels both are the same only for two views of every image. The matrix of
    all scores is held: memory grows with the square of the batch.

    Args:
        embeddings: Rows of unit length, view-major. (V, N, D), V >= 2.
        labels: Class of every image, -1 = unlabelled. (N,), integer. Or what :func:`number_classes` made of them.
            None = all unlabelled.
        temperature: tau > 0; a scalar tensor gets a gradient.
        local: Images that serve as anchors on this rank, see :func:`mmcds.losses.gather_embeddings`; default all.
        num_ranks: R; the loss is multiplied by it, so that its mean over ranks is the global mean.
        unit_rows: Trust that the rows have unit length; then a GPU is not waited for. On a CPU they are checked.

    Returns:
        Scalar, float32 or float64. Equals log(1 + number of rows of other classes) when all rows are the same.

    Raises:
        ConfigError: If the embeddings are no (V, N, D) with two views, or no rows of unit length.
        DivergedError: If they are not finite.

    References:
        https://arxiv.org/abs/2309.14277.
    """
    if embeddings.ndim != 3 or len(embeddings) < 2:
        raise ConfigError(
            f'sincere_loss: embeddings have shape {tuple(embeddings.shape)}; give (V, N, D) with at least two views.'
        )
    views, images, _ = embeddings.shape
    with torch.autocast(embeddings.device.type, enabled=False):
        if labels is None:
            labels = torch.full((images,), -1, device=embeddings.device)
        classes = labels if isinstance(labels, Classes) else number_classes(labels.to(embeddings.device))
        ids = classes.ids.expand(views, images)
        anchor_ids = (ids if local is None else ids[:, local]).flatten()
        rows = at_least_float32(embeddings)
        check_rows('sincere_loss', rows, unit_rows, 1e-2 if embeddings.element_size() < 4 else 1e-4)
        anchors = rows if local is None else rows[:, local]
        scores = anchors.flatten(0, 1) @ rows.flatten(0, 1).T / temperature
        same = anchor_ids[:, None] == ids.flatten()
        others = scores.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
        # -log(e^s / (e^s + e^o)) = softplus(o - s); no row of another class leaves o at minus infinity: a loss of 0
        per_pair = F.softplus(others - scores)
        places = torch.arange(views * images, device=rows.device).view(views, images)
        own = (places if local is None else places[:, local]).flatten()
        positive = same.scatter(1, own[:, None], False)
        per_anchor = torch.where(positive, per_pair, 0).sum(1) / positive.sum(1)
        return per_anchor.sum() * (num_ranks / max(views * images, 1))


@MODELS.register
class SINCERELoss(SupConLoss):
    """Registered form of :func:`sincere_loss`.

    Args:
        temperature: tau, or its start if it is learned.
        loss_weight: Factor of the loss; lambda_1 of Equation 5.
        normalize: Bring the rows to unit length first; the project's heads do it themselves.
        learn_temperature: Train tau, see :class:`SupConLoss`.

    Raises:
        ConfigError: If a value is outside its range.
    """

    stacks = False

    def __init__(
        self,
        temperature: float = 0.07,
        loss_weight: float = 1.0,
        normalize: bool = False,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, loss_weight, normalize=normalize, learn_temperature=learn_temperature)

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | Classes | None,
        local: slice | None,
        num_ranks: int,
        unit_rows: bool,
    ) -> Tensor:
        """Return the loss without its weight."""
        if self.normalize:
            embeddings, unit_rows = F.normalize(embeddings, dim=2, eps=1e-6), True
        return sincere_loss(
            embeddings, labels, self.temperature, local=local, num_ranks=num_ranks, unit_rows=unit_rows
        )
