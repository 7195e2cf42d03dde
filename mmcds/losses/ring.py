"""The contrastive loss of all ranks without the rows of all ranks on any: blocks of rows travel in a ring.

Every rank sends the block it holds to the next rank and receives that of the rank before, R - 1 times, so that
every block visits every rank::

                step 0    step 1    step 2      R = 3; block b are the rows of rank b
        rank 0    b0        b2        b1
        rank 1    b1        b0        b2        at every step: scores of own rows with the visitor's, in tiles,
        rank 2    b2        b1        b0        while the next visitor is already on its way

A rank holds three blocks and a few tiles: memory is O(M / R x D), where :func:`mmcds.losses.gather_embeddings`
needs O(M x D). With s_rj the score of an own row r and a visiting row j, and same_rj = 1 if both are of one class:

Forward, one turn of rows and identities:

1. Add the exponentials of every tile to the log-sum-exp of the own rows; with positives='in' those of the
   positives to a second one.
2. With positives='out' add the visitor's rows to one sum per class of the own images: sum_j same_rj s_rj is then
   an inner product, and no pair is looked at for it (as in mmcds/losses/class_sums.py). Count them in any case.

Backward, one more turn, in which the log-sum-exps, the incoming gradient g and the numbers of positives |P| travel
with the rows, so that every rank finds the whole gradient of its own rows and nothing has to travel back:

1. Compute the tiles again. d loss / d s_rj = g_r exp(s_rj - lse_r) + g_j exp(s_rj - lse_j), from r and from j as
   anchors, and with positives='in' minus the same of the second log-sum-exp where the pair is positive.
2. With positives='out' minus same_rj (g_r / |P_r| + g_j / |P_j|): the first part is a multiple of the sum kept
   from forward, the second a sum per class of the visitors' rows times g_j / |P_j|.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo

from mmcds.core.distributed import num_ranks
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import at_least_float32
from mmcds.losses.blockwise import default_block_size, refuse_second_derivative
from mmcds.losses.gather import exchange, pack, packed_size, unpack
from mmcds.losses.ntxent import NTXentLoss
from mmcds.losses.supcon import SupConLoss, _check_arguments, _check_choices, check_rows, supcon_loss


@dataclass(frozen=True)
class _Ring:
    """What a turn needs beside tensors.

    Attributes:
        counts: Images of every rank.
        widths: D of every tap; the rows of all taps lie side by side and travel together.
        scale: Factor of the scores.
        inside: Whether positives are averaged inside the logarithm.
        block: Side of a tile.
    """

    counts: list[int]
    widths: list[int]
    scale: float
    inside: bool
    block: int

    def turn(self, *parts: Tensor) -> Iterator[tuple[bool, list[Tensor]]]:
        """Go through the blocks of all ranks, this rank's own first; the next one travels meanwhile.

        Args:
            parts: What this rank sends, images first. (n, ...).

        Yields:
            Whether the block is this rank's own, and its parts. Valid until the next step.
        """
        ranks, rank = len(self.counts), dist.get_rank()
        layouts = [[((count, *part.shape[1:]), part.dtype) for part in parts] for count in self.counts]
        sizes = [max(packed_size(layout), 8) for layout in layouts]  # a rank may have no image
        block = pack(parts, sizes[rank])
        for step in range(ranks):
            source = (rank - step) % ranks
            requests = []
            if step < ranks - 1:
                coming = block.new_empty(sizes[source - 1])
                send = dist.P2POp(dist.isend, block, (rank + 1) % ranks)
                receive = dist.P2POp(dist.irecv, coming, (rank - 1) % ranks)
                requests = dist.batch_isend_irecv([send, receive])
            yield step == 0, unpack(block, layouts[source])
            for request in requests:
                request.wait()
            if requests:
                block = coming

    def tiles(self, x: Tensor, y: Tensor, own: bool) -> Iterator[tuple[slice, slice, Tensor]]:
        """Go through the scores of rows x (A, D) and y (B, D): rows and columns of a tile, and its scores.

        Where y are the same rows, as ``own`` says, the score of a row with itself is -inf.
        """
        for i in range(0, len(x), self.block):
            for j in range(0, len(y), self.block):
                down, across = slice(i, i + self.block), slice(j, j + self.block)
                left, right = x[down], y[across]
                tile = x.new_empty(len(left), len(right)).addmm_(left, right.t(), beta=0, alpha=self.scale)
                if own and i == j:
                    tile.fill_diagonal_(-torch.inf)
                yield down, across, tile

    def by_tap(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cut rows (n, V, sum of D) into those of every tap, (n * V, D)."""
        return rows.flatten(0, 1).split(self.widths, 1)

    def widen(self, values: Tensor) -> Tensor:
        """Repeat a value per image and tap (n, T) over the columns of the tap, (n, sum of D)."""
        return torch.cat([values[:, tap, None].expand(-1, width) for tap, width in enumerate(self.widths)], 1)


def _places(keys: Tensor, ids: Tensor) -> Tensor:
    """Return where ids (n,) stand first among sorted keys; if nowhere, the last place, of no id."""
    places = torch.searchsorted(keys, ids)
    return torch.where(keys[places] == ids, places, len(keys) - 1)


def _per_row(values: Tensor, views: int) -> Tensor:
    """Repeat a value per image (n,) for its views, (n * V,)."""
    return values[:, None].expand(-1, views).flatten()


class _RingContrast(torch.autograd.Function):
    """The loss of every tap, (T,), from own rows (n, V, sum of D) and identities (n,); see the top of the file."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ids: Tensor, ring: _Ring) -> Tensor:
        images, views, width = rows.shape
        taps, row_ids = ring.by_tap(rows), _per_row(ids, views)
        keys = torch.cat([ids.sort().values, ids.new_full((1,), torch.iinfo(ids.dtype).max)])
        sums, counts = rows.new_zeros(len(keys), width), rows.new_zeros(len(keys))
        levels = rows.new_full((2 if ring.inside else 1, len(taps), images * views), -torch.inf)
        for own, (visitor_ids, visitors) in ring.turn(ids, rows):
            places, visitor_row_ids = _places(keys, visitor_ids), _per_row(visitor_ids, views)
            counts.index_add_(0, places, counts.new_full(places.shape, views))
            if not ring.inside:
                sums.index_add_(0, places, visitors.sum(1))
            for tap, (x, y) in enumerate(zip(taps, ring.by_tap(visitors), strict=True)):
                for down, across, tile in ring.tiles(x, y, own):
                    for number, level in enumerate(levels[:, tap, down]):
                        if number == 1:
                            tile.masked_fill_(row_ids[down, None] != visitor_row_ids[across], -torch.inf)
                        level.copy_(torch.logaddexp(level, tile.logsumexp(1)))
        places = _places(keys, ids)
        numbers, others = counts[places] - 1, None
        if ring.inside:
            per_anchor = levels[0] - levels[1] + _per_row(numbers.log(), views)
        else:
            others = sums[places][:, None] - rows
            pull = torch.stack([scores.sum(1) for scores in ring.by_tap(others * rows)])
            per_anchor = levels[0] - ring.scale * pull / _per_row(numbers, views)
        ctx.ring, ctx.factor = ring, len(ring.counts) / max(sum(ring.counts) * views, 1)
        ctx.save_for_backward(rows, ids, keys, levels, numbers, others)
        return per_anchor.sum(1) * ctx.factor

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad(), torch.autocast(grads.device.type, enabled=False):
            found = _RingContrast._backward(ctx, grads)
        return refuse_second_derivative(found, ctx.saved_tensors[0], grads), None, None

    @staticmethod
    def _backward(ctx: Any, grads: Tensor) -> Tensor:
        rows, ids, keys, levels, numbers, others = ctx.saved_tensors
        ring: _Ring = ctx.ring
        images, views, _ = rows.shape
        taps, row_ids = ring.by_tap(rows), _per_row(ids, views)
        slopes = (grads * ctx.factor).expand(images, -1)  # per image only for the turn; alike for all of a rank
        found, pulls = torch.zeros_like(rows), rows.new_zeros(len(keys), rows.shape[2])
        sent_levels = levels.unflatten(2, (images, views)).movedim(2, 0)
        for own, visit in ring.turn(ids, rows, sent_levels, slopes, numbers):
            visitor_ids, visitors, visitor_levels, visitor_slopes, visitor_numbers = visit
            visitor_levels, visitor_row_ids = visitor_levels.movedim(0, 2).flatten(2), _per_row(visitor_ids, views)
            blocks = zip(taps, ring.by_tap(visitors), ring.by_tap(found), strict=True)
            for tap, (x, y, dx) in enumerate(blocks):
                slope, visitor_slope = (_per_row(value[:, tap], views) for value in (slopes, visitor_slopes))
                for down, across, tile in ring.tiles(x, y, own):
                    weight = torch.zeros_like(tile)
                    for number, sign in enumerate((1, -1)[: len(levels)]):
                        if number == 1:
                            tile.masked_fill_(row_ids[down, None] != visitor_row_ids[across], -torch.inf)
                        level, visitor_level = levels[number, tap, down], visitor_levels[number, tap, across]
                        weight.addcmul_((tile - level[:, None]).exp_(), slope[down, None], value=sign)
                        weight.addcmul_((tile - visitor_level).exp_(), visitor_slope[across], value=sign)
                    dx[down].addmm_(weight, y[across], alpha=ring.scale)
            if not ring.inside:
                shares = ring.widen(visitor_slopes / visitor_numbers[:, None])
                pulls.index_add_(0, _places(keys, visitor_ids), visitors.sum(1) * shares)
        if not ring.inside:
            shares = ring.widen(slopes / numbers[:, None])[:, None]
            pulled = (others - rows).mul_(shares).add_(pulls[_places(keys, ids)][:, None])
            found.sub_(pulled, alpha=ring.scale)
        return found


@overload
def ring_contrast_loss(
    embeddings: Tensor,
    labels: Tensor | None = ...,
    temperature: float | Tensor = ...,
    *,
    positives: str = ...,
    block_size: int | None = ...,
) -> Tensor: ...


@overload
def ring_contrast_loss(
    embeddings: Sequence[Tensor],
    labels: Tensor | None = ...,
    temperature: float | Tensor = ...,
    *,
    positives: str = ...,
    block_size: int | None = ...,
) -> list[Tensor]: ...


def ring_contrast_loss(
    embeddings: Tensor | Sequence[Tensor],
    labels: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    *,
    positives: str = 'out',
    block_size: int | None = None,
) -> Tensor | list[Tensor]:
    """Contrast this rank's images with those of all ranks, in memory that does not grow with the number of ranks.

    Loss and gradient are those of :func:`mmcds.losses.supcon_loss` on the rows of
    :func:`mmcds.losses.gather_embeddings`, given ``local`` and ``num_ranks``: the mean over ranks, which DDP
    takes, is that of one process with the whole batch. Every rank must call it and its backward pass. Ranks may
    hold different numbers of images, with the limits of the gather on a GPU. Without a process group, or with one
    rank, it is ``supcon_loss``.

    Args:
        embeddings: This rank's rows, of unit length; a row of zeros is allowed. (V, n, D), V >= 2. Or several, one
            per tap and with a width each, for which blocks travel once. Their length is checked on a CPU only.
        labels: Class of this rank's images, -1 = unlabelled. (n,), integer. None = all unlabelled.
        temperature: tau > 0; a scalar tensor gets a gradient.
        positives: Mean over positives outside (``'out'``) or inside (``'in'``) the logarithm.
        block_size: Side of the tiles; the default depends on the device.

    Returns:
        Scalar, float32 or float64, or a list with one per tap.

    Raises:
        ConfigError: If a rule above is broken; on every rank, also if only one breaks it with its embeddings or
            labels, or if those of the ranks do not fit together.
        DivergedError: On every rank of CPUs, if embeddings are not finite.
        RuntimeError: When the loss is differentiated twice.
    """
    taps = [embeddings] if isinstance(embeddings, Tensor) else list(embeddings)
    if num_ranks() == 1:
        losses = [
            supcon_loss(rows, labels, temperature, positives=positives, block_size=block_size, unit_rows=True)
            for rows in taps
        ]
    else:
        losses = _losses_on_ring(taps, labels, temperature, positives, block_size)
    return losses[0] if isinstance(embeddings, Tensor) else losses


def check_ring(loss: SupConLoss, unlabelled_weight: float | None) -> None:
    """Refuse a loss, or a second term, that has no form for the ring.

    Raises:
        ConfigError: Naming it.
    """
    no_form = type(loss).compute is not SupConLoss.compute
    for what, wrong in (
        (f'the loss {type(loss).__name__}', no_form),
        ('normalize=True of the loss, since rows travel at unit length', loss.normalize),
        ('unlabelled_weight, whose sets of images change in size from step to step', unlabelled_weight is not None),
    ):
        if wrong:
            raise ConfigError(f"ContrastiveSupervision: gather='ring' has no form for {what}. Set gather=True.")


def ring_losses(loss: SupConLoss, taps: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
    """Return the weighted loss of every tap; see :func:`ring_contrast_loss`."""
    loss.limit_temperature()
    found = ring_contrast_loss(
        taps,
        None if isinstance(loss, NTXentLoss) else labels,
        loss.temperature,
        positives=loss.positives,
        block_size=loss.block_size,
    )
    return [loss.loss_weight * each for each in found]


@_disable_dynamo  # as torch.compiler.disable, without importing the compiler
def _losses_on_ring(
    taps: list[Tensor], labels: Tensor | None, temperature: float | Tensor, positives: str, block_size: int | None
) -> list[Tensor]:
    joined = taps[0] if len(taps) == 1 else torch.cat(taps, 2)
    headers, _ = exchange('ring_contrast_loss', joined, labels)
    _check_arguments(joined, labels, positives, block_size)
    _check_choices('ring_contrast_loss', temperature, 'auto', 'float32')
    if joined.is_cpu:
        _check_lengths(taps)
    counts = [header.images for header in headers]
    with torch.autocast(joined.device.type, enabled=False):
        rows = at_least_float32(joined).transpose(0, 1)
        scale = 1.0
        if isinstance(temperature, Tensor):  # its gradient comes through the rows
            rows = rows * temperature**-0.5
        else:
            scale = 1 / temperature
        start = sum(counts[: dist.get_rank()])
        ids = -1 - start - torch.arange(len(rows), device=joined.device)  # no two of all ranks are the same
        if labels is not None:
            labels = labels.to(joined.device, torch.int64)
            ids = torch.where(labels >= 0, labels, ids)
        block = block_size or default_block_size(joined.device)
        ring = _Ring(counts, [tap.shape[2] for tap in taps], scale, positives == 'in', block)
        return list(_RingContrast.apply(rows.contiguous(), ids, ring).unbind())


def _check_lengths(taps: Sequence[Tensor]) -> None:
    """Refuse rows that are not of unit length on any rank, on every rank."""
    norms = [torch.linalg.vector_norm(at_least_float32(rows.detach()), dim=2).flatten() for rows in taps]
    longest = torch.stack([torch.cat([norm, norm.new_zeros(1)]).max() for norm in norms])
    longest.nan_to_num_(nan=math.inf, posinf=math.inf)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    for length in longest.view(-1, 1, 1, 1):
        check_rows('supcon_loss', length, False, 1e-2 if taps[0].element_size() < 4 else 1e-4)
