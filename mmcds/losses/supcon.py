"""Supervised contrastive loss on the rows of the heads, exact and with memory linear in the batch.

The implementation of :mod:`mmcds.losses.ntxent` too, which is the same loss without labels.
"""

import math

import torch
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.errors import ConfigError
from mmcds.losses.blockwise import blockwise_logsumexp
from mmcds.losses.class_sums import class_scores

POSITIVES = ('out', 'in')


@torch.compiler.disable
def supcon_loss(
    embeddings: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    *,
    positives: str = 'out',
    weights: Tensor | None = None,
    exclude: Tensor | None = None,
    normalize: bool = False,
    local: slice | None = None,
    num_ranks: int = 1,
    block_size: int | None = None,
) -> Tensor:
    r"""Pull images of one class and views of one image together, push all other rows apart.

    With M = V * N unit rows z, all other rows A(i) and the positives P(i) among them (rows of the same class,
    or of the same image if it is unlabelled),

    .. math::
        L^{out}_i = \frac{-1}{|P(i)|} \sum_{p \in P(i)}
            \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}, \qquad
        L^{in}_i = -\log \frac{1}{|P(i)|} \sum_{p \in P(i)}
            \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)},

    averaged over all anchors i that have positives; 0 if none has. For Equation 4 of the CDS paper see
    :func:`mmcds.losses.ntxent_loss`. Computed in float32 or float64 with autocast off. No matrix of size M x M
    is held unless it is no larger than one tile.

    Args:
        embeddings: Rows of unit length, view-major; a row of zeros is allowed. (V, N, D), V >= 2.
        labels: Class of every image, -1 = unlabelled. (N,), integer. None = all unlabelled.
        temperature: tau > 0, in units of cosine similarity; a scalar tensor gets a gradient.
        positives: Mean over positives outside (``'out'``) or inside (``'in'``) the logarithm.
        weights: Non-negative weights of the anchors in the mean. (N,) or (V, N).
        exclude: Pairs of images that are neither positive nor negative to each other, in either order, such as
            known duplicates. (P, 2), integer. A pair (n, n) means the views of image n.
        normalize: Bring the rows to unit length first (rows shorter than 1e-6 are divided by 1e-6).
        local: Images that serve as anchors on this rank, see :func:`mmcds.losses.gather_embeddings`; default
            all. The mean is still taken over the anchors of all images.
        num_ranks: R; the loss is multiplied by it, so that its mean over ranks is the global mean.
        block_size: Side of the tiles; the default depends on the device. A problem of at most that many rows is
            one tile, kept for backward.

    Returns:
        Scalar, float32 or float64. Equals log(M - 1) when all rows are the same.

    Raises:
        ConfigError: If shapes, types or values of the arguments break a rule above, or if embeddings are not
            finite. The check of the values is one pass over the rows, and on a GPU one synchronisation.
        RuntimeError: When the loss is differentiated twice.

    References:
        https://arxiv.org/abs/2004.11362, Equations 2 and 3.

    Example:
        >>> supcon_loss(torch.eye(2).expand(2, 2, 2), torch.tensor([0, 1]), temperature=1.0)
        tensor(0.5514)
    """
    scalar = temperature.item() if isinstance(temperature, Tensor) else temperature
    _check_arguments(embeddings, labels, scalar, positives, weights, exclude, block_size)
    with torch.autocast(embeddings.device.type, enabled=False):
        z_VND = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        if normalize:
            z_VND = F.normalize(z_VND, dim=2, eps=1e-6)
        longest = _check_rows(z_VND, tolerance=1e-2 if embeddings.element_size() < 4 else 1e-4)
        views, images, _ = z_VND.shape
        count, ids = _identities(labels, images, z_VND.device)
        ids_M = ids.expand(views, images).flatten()
        rows_M, scale = z_VND.flatten(0, 1), 1 / scalar
        if isinstance(temperature, Tensor):  # its gradient comes through the rows
            rows_M, scale = rows_M * temperature**-0.5, 1.0
        every = torch.arange(views * images, device=z_VND.device)
        own = every if local is None else every.view(views, images)[:, local].flatten()

        def of_anchors(values: Tensor) -> Tensor:
            return values if local is None else values.index_select(0, own)

        num_positives = count.index_select(0, ids_M).mul_(views).sub_(1)
        pairs = every, every
        if exclude is not None:
            excluded = _row_pairs(exclude, views, images)
            positive = ids_M[excluded[0]] == ids_M[excluded[1]]
            first, second = excluded[0][positive], excluded[1][positive]
            num_positives = num_positives.index_add(0, first, -torch.ones_like(first))
            pairs = torch.cat([every, excluded[0]]), torch.cat([every, excluded[1]])
        anchors, candidates = of_anchors(rows_M), None
        if local is not None:
            candidates = rows_M
            place = torch.full_like(every, -1).index_put((own,), every[: len(own)])
            inside = place[pairs[0]] >= 0
            pairs = place[pairs[0][inside]], pairs[1][inside]
        both_ids = (of_anchors(ids_M), ids_M) if positives == 'in' else None
        log_all, *log_positive = blockwise_logsumexp(
            anchors, candidates, pairs, longest**2 / scalar, scale, both_ids, block_size
        )
        number = of_anchors(num_positives).clamp(min=1).to(log_all.dtype)
        if positives == 'in':
            per_anchor = log_all - log_positive[0] + number.log()
        else:
            score = scale * class_scores(rows_M, ids_M, len(count), None if local is None else own)
            if exclude is not None:
                removed = scale * (rows_M[first] * rows_M[second]).sum(1)
                score = score - of_anchors(rows_M.new_zeros(len(rows_M)).index_add(0, first, removed))
            per_anchor = log_all - score / number
        if weights is None and exclude is None:  # then every anchor has positives and counts alike
            return per_anchor.sum() * (num_ranks / max(len(rows_M), 1))
        weights_M = (num_positives > 0).to(z_VND.dtype)
        if weights is not None:
            weights_M = weights_M * weights.to(z_VND.dtype).expand(views, images).flatten()
        total = weights_M.sum()
        return (of_anchors(weights_M) * per_anchor).sum() * (num_ranks / torch.where(total > 0, total, 1))


def _identities(labels: Tensor | None, images: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Number the classes, every unlabelled image being its own; return images per class (C,) and class (N,)."""
    own = torch.arange(images, device=device)
    if labels is None:
        return torch.ones_like(own), own
    labels = torch.where(labels >= 0, labels.to(device=device, dtype=torch.int64), -1 - own)
    _, ids, count = torch.unique(labels, return_inverse=True, return_counts=True)
    return count, ids


def _row_pairs(exclude: Tensor, views: int, images: int) -> tuple[Tensor, Tensor]:
    """All pairs of different rows of the given pairs of images, both ways, none twice."""
    if exclude.numel() and not (exclude.min() >= 0 and exclude.max() < images):
        raise ConfigError(
            f'supcon_loss: exclude names images {int(exclude.min())} to {int(exclude.max())}, but '
            f'images are numbered 0 to {images - 1}. Correct the pairs.'
        )
    both = torch.cat([exclude, exclude.flip(1)]).to(torch.int64)
    offset = torch.arange(views, device=exclude.device) * images
    first = both[:, 0, None, None] + offset[:, None]
    second = both[:, 1, None, None] + offset
    first, second = torch.broadcast_tensors(first, second)
    number = torch.unique((first * (views * images) + second)[first != second])
    return number // (views * images), number % (views * images)


def _check_arguments(
    embeddings: Tensor,
    labels: Tensor | None,
    temperature: float,
    positives: str,
    weights: Tensor | None,
    exclude: Tensor | None,
    block_size: int | None,
) -> None:
    """Check shapes, types and scalars."""
    if embeddings.ndim != 3 or not embeddings.is_floating_point():
        raise ConfigError(
            'supcon_loss: embeddings must be a floating-point tensor (V, N, D), got '
            f'{tuple(embeddings.shape)} of {embeddings.dtype}. Stack the views along the first '
            'dimension.'
        )
    views, images, _ = embeddings.shape
    if views < 2:
        raise ConfigError(
            f'supcon_loss: embeddings have V = {views} view per image, but a row needs another view '
            'to be pulled to. Give at least two views.'
        )
    if not temperature > 0:
        raise ConfigError(f'supcon_loss: temperature must be > 0, got {temperature}. The usual value is 0.07.')
    if positives not in POSITIVES:
        raise ConfigError(f"supcon_loss: positives is {positives!r}; choose 'out' or 'in'.")
    if labels is not None and (labels.shape != (images,) or labels.is_floating_point()):
        raise ConfigError(
            f'supcon_loss: labels must be integers of shape ({images},), one per image, got '
            f'{tuple(labels.shape)} of {labels.dtype}. Do not repeat them for the views.'
        )
    if weights is not None and (weights.shape not in ((images,), (views, images)) or not (weights >= 0).all()):
        raise ConfigError(
            f'supcon_loss: weights must be non-negative, of shape ({images},) or ({views}, '
            f'{images}), got {tuple(weights.shape)}. Give one per image or per row.'
        )
    if exclude is not None and (exclude.ndim != 2 or exclude.shape[1] != 2 or exclude.is_floating_point()):
        raise ConfigError(
            'supcon_loss: exclude must be integer pairs of images (P, 2), got '
            f'{tuple(exclude.shape)} of {exclude.dtype}. Give one pair per row.'
        )
    if block_size is not None and block_size < 1:
        raise ConfigError(f'supcon_loss: block_size must be >= 1, got {block_size}. Leave it out for the default.')


def _check_rows(z_VND: Tensor, tolerance: float) -> float:
    """Return the length of the longest row, which must be 1 within the tolerance, or 0."""
    if not z_VND.numel():
        return 0.0
    longest = float(torch.linalg.vector_norm(z_VND.detach(), dim=2).max())
    if not math.isfinite(longest):
        raise ConfigError(
            'supcon_loss: embeddings contain NaN or infinity. The training has diverged, or an image '
            'is broken: lower the learning rate, or look at the images of this batch.'
        )
    if longest and abs(longest - 1) > tolerance:
        raise ConfigError(
            f'supcon_loss: embeddings must be rows of unit length, but the longest has {longest:.4g}. '
            'Set normalize=True.'
        )
    return longest


@MODELS.register_module()
class SupConLoss(nn.Module):
    """Registered form of :func:`supcon_loss`.

    Args:
        temperature: tau, or its start if it is learned.
        loss_weight: Factor of the loss; lambda_1 of Equation 5.
        positives: ``'out'`` or ``'in'``.
        normalize: Bring the rows to unit length first; the project's heads do it themselves.
        learn_temperature: Train tau as the parameter ``log_temperature``. Exempt it from weight decay
            (``paramwise_cfg``).
        min_temperature: A learned tau does not fall below this.
        block_size: Side of the tiles; the default depends on the device.

    Raises:
        ConfigError: If a value is outside its range.
    """

    def __init__(
        self,
        temperature: float = 0.07,
        loss_weight: float = 1.0,
        positives: str = 'out',
        normalize: bool = False,
        learn_temperature: bool = False,
        min_temperature: float = 0.01,
        block_size: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not temperature > 0:
            raise ConfigError(f'{name}: temperature must be > 0, got {temperature}. The usual value is 0.07.')
        if positives not in POSITIVES:
            raise ConfigError(f"{name}: positives is {positives!r}; choose 'out' or 'in'.")
        if not 0 <= loss_weight < math.inf:
            raise ConfigError(f'{name}: loss_weight must be a finite number >= 0, got {loss_weight}.')
        if learn_temperature and not 0 < min_temperature <= temperature:
            raise ConfigError(
                f'{name}: min_temperature must be > 0 and at most temperature ({temperature}), got {min_temperature}.'
            )
        if block_size is not None and block_size < 1:
            raise ConfigError(f'{name}: block_size must be >= 1, got {block_size}. Leave it out for the default.')
        self.loss_weight, self.positives, self.normalize = loss_weight, positives, normalize
        self.block_size, self.min_temperature = block_size, min_temperature
        self._temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """The value of tau now: a number, or a scalar tensor with gradient if it is learned."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        *,
        weights: Tensor | None = None,
        exclude: Tensor | None = None,
        local: slice | None = None,
        num_ranks: int = 1,
    ) -> Tensor:
        """Return the weighted loss; see :func:`supcon_loss` for the arguments."""
        if self.log_temperature is not None:
            with torch.no_grad():  # not in the graph: a clamp there would leave tau at its bound for ever
                self.log_temperature.clamp_(min=math.log(self.min_temperature))
        return self.loss_weight * supcon_loss(
            embeddings,
            labels,
            self.temperature,
            positives=self.positives,
            weights=weights,
            exclude=exclude,
            normalize=self.normalize,
            local=local,
            num_ranks=num_ranks,
            block_size=self.block_size,
        )
