"""Supervised contrastive loss on the rows of the heads, exact and with memory linear in the batch.

The implementation of :mod:`mmcds.losses.ntxent` too, which is the same loss without labels. In short, for M = V * N
rows z of which M or fewer are anchors::

    log_all   = log-sum-exp over all other rows      blockwise, never as a matrix (mmcds/losses/blockwise.py)
    pull      = mean score with the positives        from one sum of rows per class (mmcds/losses/class_sums.py)
    loss      = mean over anchors of (log_all - pull)

With positives='in' the second line is a log-sum-exp over the positives instead. On a GPU, kernels of our own do both
steps for all taps at once (mmcds/losses/fused.py).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.core.numerics import at_least_float32
from mmcds.core.registry import MODELS
from mmcds.losses import fused
from mmcds.losses.blockwise import blockwise_logsumexp
from mmcds.losses.class_sums import class_scores

POSITIVES = ('out', 'in')
KERNELS = ('auto', 'tiles', 'fused', 'chunked')
PRECISIONS = ('float32', 'tf32x3', 'tf32', 'float16', 'bfloat16')


class Classes(NamedTuple):
    """The classes of N images, numbered without gaps; every unlabelled image is a class of its own.

    Attributes:
        ids: Class of every image. (N,), int64.
        counts: Images of every class, 0 for numbers that are not used. (N,), int64.
    """

    ids: Tensor
    counts: Tensor


def number_classes(labels: Tensor) -> Classes:
    """Number the classes of a batch; give the result to several losses of one step instead of the labels.

    Args:
        labels: Class of every image, -1 = unlabelled. (N,), integer.
    """
    own = torch.arange(len(labels), device=labels.device)
    keys, order = torch.where(labels >= 0, labels.to(torch.int64), -1 - own).sort()
    # By sorting and counting, not by torch.unique, for whose size the CPU would have to wait
    starts = torch.ones_like(keys)
    starts[:1] = 0
    starts[1:] = keys[1:] != keys[:-1]
    ids = torch.empty_like(keys).scatter_(0, order, starts.cumsum(0))
    return Classes(ids, torch.zeros_like(ids).scatter_add_(0, ids, torch.ones_like(ids)))


def supcon_loss(
    embeddings: Tensor,
    labels: Tensor | Classes | None = None,
    temperature: float | Tensor = 0.07,
    *,
    positives: str = 'out',
    normalize: bool = False,
    local: slice | None = None,
    num_ranks: int = 1,
    block_size: int | None = None,
    unit_rows: bool = False,
    kernel: str = 'auto',
    precision: str = 'float32',
) -> Tensor:
    r"""Pull images of one class and views of one image together, push all other rows apart.

    With M = V * N unit rows z, all other rows A(i) and the positives P(i) among them (rows of the same class,
    or of the same image if it is unlabelled),

    .. math::
        L^{out}_i = \frac{-1}{|P(i)|} \sum_{p \in P(i)}
            \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)}, \qquad
        L^{in}_i = -\log \frac{1}{|P(i)|} \sum_{p \in P(i)}
            \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{a \in A(i)} \exp(z_i \cdot z_a / \tau)},

    averaged over all anchors i. For Equation 4 of the CDS paper see :func:`mmcds.losses.ntxent_loss`. Computed in
    float32 or float64 with autocast off. No matrix of size M x M is held unless it is no larger than one tile.

    Args:
        embeddings: Rows of unit length, view-major; a row of zeros is allowed. (V, N, D), V >= 2. Or those of T taps,
            (T, V, N, D), which a GPU does at once.
        labels: Class of every image, -1 = unlabelled. (N,), integer. Or what :func:`number_classes` made of them.
            None = all unlabelled.
        temperature: tau > 0, in units of cosine similarity; a scalar tensor gets a gradient.
        positives: Mean over positives outside (``'out'``) or inside (``'in'``) the logarithm.
        normalize: Bring the rows to unit length first (rows shorter than 1e-6 are divided by 1e-6).
        local: Images that serve as anchors on this rank, see :func:`mmcds.losses.gather_embeddings`; default
            all. The mean is still taken over the anchors of all images.
        num_ranks: R; the loss is multiplied by it, so that its mean over ranks is the global mean.
        block_size: Side of the tiles; the default depends on the device. A problem of at most that many rows is
            one tile, kept for backward.
        unit_rows: Trust that the rows have unit length, as those of our heads have. Then a GPU is not waited for; on
            a CPU they are checked in any case.
        kernel: How a GPU computes float32 rows: ``'fused'`` in one kernel, ``'chunked'`` by products of many rows with
            all others, ``'tiles'`` as a CPU does, ``'auto'`` by the width of the rows. Tiles stand in where Triton
            cannot be used.
        precision: Of the products in the kernels of a GPU: ``'float32'``, ``'tf32x3'``, ``'tf32'``, ``'float16'`` or
            ``'bfloat16'``, with sums in float32; see :mod:`mmcds.losses.fused` for their errors. Tiles have float32.

    Returns:
        Scalar, float32 or float64; one per tap, (T,), for T taps. Equals log(M - 1) when all rows are the same.

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
    # 1. Rows: every view of every image, and the number of its class.
    # 2. Anchors: all rows, or those of this rank's images; candidates are always all rows.
    # 3. The logarithm of the denominator, over all rows but the anchor itself, tile by tile.
    # 4. Outside the logarithm, the mean over positives is an inner product with the sum of the class: no pairs at all.
    #    Inside it, step 3 sums the positives' exponentials on the way.
    several = embeddings.ndim == 4
    _check_arguments(embeddings[0] if several else embeddings, labels, positives, block_size)
    _check_choices('supcon_loss', temperature, kernel, precision)
    with torch.autocast(embeddings.device.type, enabled=False):
        z = at_least_float32(embeddings)
        if normalize:
            z = F.normalize(z, dim=-1, eps=1e-6)
        longest = check_rows('supcon_loss', z, unit_rows, 1e-2 if embeddings.element_size() < 4 else 1e-4)
        views, images = z.shape[-3:-1]
        classes = _classes(labels, images, z.device)
        rows, ids = z.flatten(-3, -2), classes.ids.expand(views, images).flatten()
        own = None if local is None else _rows_of_images(local, views, images, z.device)
        anchor_ids = ids if own is None else ids.index_select(0, own)
        factor = num_ranks / max(views * images, 1)
        number = classes.counts.index_select(0, anchor_ids).mul_(views).sub_(1).to(z.dtype)
        if kernel != 'tiles' and not z.is_cpu and z.dtype == torch.float32 and fused.usable(z.device):
            log_all, found = fused.fused_contrast(
                rows if several else rows[None],
                ids,
                1 / temperature,
                views=views,
                images=images,
                local=local,
                positives=positives,
                precision=precision,
                chunked=None if kernel == 'auto' else kernel == 'chunked',
            )
            per_anchor = log_all - (found / number if positives == 'out' else found - number.log())
        else:
            tiles = _Tiled(temperature, positives, local, longest, block_size, views, images, classes, ids, own)
            if not several:
                return tiles.per_anchor(rows, number).sum() * factor
            per_anchor = torch.stack([tiles.per_anchor(tap, number) for tap in rows])
        losses = per_anchor.sum(1) * factor
        return losses if several else losses[0]


class _Tiled(NamedTuple):
    """The loss of every anchor by plain PyTorch, for what :func:`supcon_loss` was given."""

    temperature: float | Tensor
    positives: str
    local: slice | None
    longest: float
    block_size: int | None
    views: int
    images: int
    classes: Classes
    ids: Tensor
    own: Tensor | None

    def per_anchor(self, rows: Tensor, number: Tensor) -> Tensor:
        """Return the losses (A,) of rows (M, D), of which each has a number of positives, (A,)."""
        bound, scale = math.inf, 1.0
        if not isinstance(self.temperature, Tensor):
            bound, scale = self.longest**2 / self.temperature, 1 / self.temperature
        else:  # its gradient comes through the rows
            if rows.is_cpu:
                bound = self.longest**2 / self.temperature.item()
            rows = rows * self.temperature**-0.5
        anchor_ids = self.ids if self.own is None else self.ids.index_select(0, self.own)
        log_all, *log_positive = blockwise_logsumexp(
            rows if self.own is None else rows.index_select(0, self.own),
            None if self.own is None else rows,
            _runs(self.local, self.views, self.images),
            bound,
            scale,
            (anchor_ids, self.ids) if self.positives == 'in' else None,
            self.block_size,
        )
        if self.positives == 'in':
            return log_all - log_positive[0] + number.log()
        pull = class_scores(rows, self.ids, len(self.classes.counts), self.own)
        return log_all - scale * pull / number


def _rows_of_images(local: slice, views: int, images: int, device: torch.device) -> Tensor:
    """Return where the rows of some images stand among all rows, view-major. (V * n,)."""
    return torch.arange(views * images, device=device).view(views, images)[:, local].flatten()


def _runs(local: slice | None, views: int, images: int) -> list[tuple[int, int, int]]:
    """Return the same places as runs (first anchor, first row, length), as Python numbers; all rows are one run."""
    if local is None:
        return [(0, 0, views * images)]
    first, last, _ = local.indices(images)
    return [(view * (last - first), view * images + first, last - first) for view in range(views)]


def _classes(labels: Tensor | Classes | None, images: int, device: torch.device) -> Classes:
    """Return the classes of the images; without labels every image is one."""
    if isinstance(labels, Classes):
        return labels
    if labels is None:
        own = torch.arange(images, device=device)
        return Classes(own, torch.ones_like(own))
    return number_classes(labels.to(device))


def _check_arguments(
    embeddings: Tensor, labels: Tensor | Classes | None, positives: str, block_size: int | None
) -> None:
    """Check shapes and types."""
    if embeddings.ndim != 3 or not embeddings.is_floating_point():
        raise ConfigError(
            'supcon_loss: embeddings must be a floating-point tensor (V, N, D), got '
            f'{tuple(embeddings.shape)} of {embeddings.dtype}. Stack the views along the first dimension.'
        )
    views, images = embeddings.shape[:2]
    if views < 2:
        raise ConfigError(
            f'supcon_loss: embeddings have V = {views} view per image, but a row needs another view '
            'to be pulled to. Give at least two views.'
        )
    if positives not in POSITIVES:
        raise ConfigError(f"supcon_loss: positives is {positives!r}; choose 'out' or 'in'.")
    given = labels.ids if isinstance(labels, Classes) else labels
    if given is not None and (given.shape != (images,) or given.is_floating_point()):
        raise ConfigError(
            f'supcon_loss: labels must be integers of shape ({images},), one per image, got '
            f'{tuple(given.shape)} of {given.dtype}. Do not repeat them for the views.'
        )
    if block_size is not None and block_size < 1:
        raise ConfigError(f'supcon_loss: block_size must be >= 1, got {block_size}. Leave it out for the default.')


def _check_choices(owner: str, temperature: float | Tensor, kernel: str, precision: str) -> None:
    """Check what can be checked before there are rows; a temperature on a GPU is not waited for."""
    if isinstance(temperature, Tensor):
        unread = not temperature.is_cpu or torch.compiler.is_compiling()
        temperature = 1.0 if unread else temperature.item()
    if not 0 < temperature < math.inf:
        raise ConfigError(f'{owner}: temperature must be > 0, got {temperature}. The usual value is 0.07.')
    for name, choice, allowed in (('kernel', kernel, KERNELS), ('precision', precision, PRECISIONS)):
        if choice not in allowed:
            raise ConfigError(f'{owner}: {name} is {choice!r}; choose one of {", ".join(allowed)}.')


def check_rows(owner: str, z: Tensor, unit_rows: bool, tolerance: float) -> float:
    """Return the length of the longest row, which must be 1 within the tolerance, or 0; or what it can be at most.

    Args:
        owner: Function that asks, for messages.
        z: Rows (..., D).
        unit_rows: Trust that they have unit length where looking at them would wait for a GPU, or break a graph.
        tolerance: Of the length.

    Raises:
        ConfigError: If it is not 1.
        DivergedError: If a value is not finite.
    """
    if unit_rows and (torch.compiler.is_compiling() or not z.is_cpu):
        return 1 + tolerance
    if not z.numel():
        return 0.0
    longest = float(torch.linalg.vector_norm(z.detach(), dim=-1).max())
    if not math.isfinite(longest):
        raise DivergedError(
            f'{owner}: embeddings contain NaN or infinity. The training has diverged, or an image '
            'is broken: lower the learning rate, or look at the images of this batch.'
        )
    if longest and abs(longest - 1) > tolerance:
        raise ConfigError(
            f'{owner}: embeddings must be rows of unit length, but the longest has {longest:.4g}. Set normalize=True.'
        )
    return longest


@MODELS.register
class SupConLoss(nn.Module):
    """Registered form of :func:`supcon_loss`.

    Args:
        temperature: tau, or its start if it is learned.
        loss_weight: Factor of the loss; lambda_1 of Equation 5.
        positives: ``'out'`` or ``'in'``.
        normalize: Bring the rows to unit length first; the project's heads do it themselves.
        learn_temperature: Train tau as the parameter ``log_temperature``; it does not fall below 0.01. Exempt it
            from weight decay (``paramwise_cfg``).
        block_size: Side of the tiles; the default depends on the device.
        kernel: How a GPU computes it, see :func:`supcon_loss`.
        precision: Of the products on a GPU, see :func:`supcon_loss`.

    Raises:
        ConfigError: If a value is outside its range.
    """

    min_temperature = 0.01
    #: Whether several taps may come as one tensor.
    stacks = True

    def __init__(
        self,
        temperature: float = 0.07,
        loss_weight: float = 1.0,
        positives: str = 'out',
        normalize: bool = False,
        learn_temperature: bool = False,
        block_size: int | None = None,
        kernel: str = 'auto',
        precision: str = 'float32',
    ) -> None:
        super().__init__()
        name = type(self).__name__
        _check_choices(name, temperature, kernel, precision)
        if positives not in POSITIVES:
            raise ConfigError(f"{name}: positives is {positives!r}; choose 'out' or 'in'.")
        if not 0 <= loss_weight < math.inf:
            raise ConfigError(f'{name}: loss_weight must be a finite number >= 0, got {loss_weight}.')
        if learn_temperature and temperature < self.min_temperature:
            raise ConfigError(
                f'{name}: a learned temperature starts at {self.min_temperature} or above, got {temperature}.'
            )
        if block_size is not None and block_size < 1:
            raise ConfigError(f'{name}: block_size must be >= 1, got {block_size}. Leave it out for the default.')
        self.loss_weight, self.positives, self.normalize = loss_weight, positives, normalize
        self.block_size, self.kernel, self.precision = block_size, kernel, precision
        self._temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None

    @property
    def temperature(self) -> float | Tensor:
        """Return the value of tau now: a number, or a scalar tensor with gradient if it is learned."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | Classes | None = None,
        *,
        local: slice | None = None,
        num_ranks: int = 1,
        unit_rows: bool = False,
    ) -> Tensor:
        """Return the weighted loss; see :func:`supcon_loss` for the arguments."""
        self.limit_temperature()
        return self.loss_weight * self.compute(embeddings, labels, local, num_ranks, unit_rows)

    def limit_temperature(self) -> None:
        """Keep a learned temperature above its lowest value, before it is used."""
        if self.log_temperature is not None:
            with torch.no_grad():  # not in the graph: a clamp there would leave tau at its bound for ever
                self.log_temperature.clamp_(min=math.log(self.min_temperature))

    def of_taps(self, taps: Sequence[Tensor], labels: Tensor | Classes | None = None, **options: Any) -> list[Tensor]:
        """Return the weighted loss of every tap, each (V, N, D); a GPU does those of one width at once."""
        if len(taps) > 1 and self.stacks and not taps[0].is_cpu and len({(tap.shape, tap.dtype) for tap in taps}) == 1:
            return list(self(torch.stack(list(taps)), labels, **options).unbind())
        return [self(tap, labels, **options) for tap in taps]

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | Classes | None,
        local: slice | None,
        num_ranks: int,
        unit_rows: bool,
    ) -> Tensor:
        """Return the loss without its weight."""
        return supcon_loss(
            embeddings,
            labels,
            self.temperature,
            positives=self.positives,
            normalize=self.normalize,
            local=local,
            num_ranks=num_ranks,
            block_size=self.block_size,
            unit_rows=unit_rows,
            kernel=self.kernel,
            precision=self.precision,
        )
