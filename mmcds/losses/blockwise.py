"""Exact log-sum-exp over all pairs of rows, in tiles that fit the cache: what every contrastive loss is made of.

The similarity matrix is never held. Forward computes it tile by tile and keeps one number per row; backward
computes the tiles again. In the local case, where anchors and candidates are the same rows, the matrix is
symmetric, so only the tiles on and above the diagonal are computed and each serves both of its sides::

        J=0  J=1  J=2
    I=0  x    x    x      forward:  1/2 of a full matrix product
    I=1       x    x      backward: 1/2 to compute the tiles again, and 1 to apply each to both sides
    I=2            x

so forward and backward together cost two products of the full matrix instead of the three of plain autograd.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# The largest spread of the scores for which exp(score - bound) stays a normal number, so that one exponential
# with a common shift serves the rows and the columns of a tile.
_SAFE_SPREAD = {torch.float32: 80.0, torch.float64: 600.0}


def default_block_size(device: torch.device) -> int:
    """Side of a tile: 512 on the CPU, where a tile must stay in the cache; 4096 elsewhere (64 MiB in float32).

    The value for the CPU is measured (``benchmarks/contrastive_loss.py``), the one for GPUs is not.
    """
    return 512 if device.type == 'cpu' else 4096


class _Tiles:
    """Cuts the score matrix into tiles and computes them; holds everything that has no gradient.

    Args:
        shape: Numbers of anchors A and candidates K.
        symmetric: Whether anchors and candidates are the same rows.
        block: Side of a tile.
        shift: Subtracted from the scores before exp, or None to leave the scores as they are.
        excluded: Index pairs (anchor, candidate) that do not count. Two tensors (P,).
        ids: Identity of every anchor (A,) and candidate (K,): equal means positive. None if not needed.
    """

    def __init__(self, shape: tuple[int, int], symmetric: bool, block: int, shift: float | None,
                 excluded: tuple[Tensor, Tensor], ids: tuple[Tensor, Tensor] | None) -> None:
        self.shape, self.symmetric, self.block, self.shift, self.ids = shape, symmetric, block, shift, ids
        self.single = max(shape) <= block
        row, column = excluded
        if self.single:
            self._excluded = {(0, 0): (row, column)}
            return
        across = -(-shape[1] // block)
        tile, order = torch.sort(row // block * across + column // block)
        row, column = row[order] % block, column[order] % block
        number, count = torch.unique_consecutive(tile, return_counts=True)
        pieces = zip(row.split(count.tolist()), column.split(count.tolist()), strict=True)
        self._excluded = {divmod(index, across): piece
                          for index, piece in zip(number.tolist(), pieces, strict=True)}

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        for top in range(0, self.shape[0], self.block):
            for left in range(top if self.symmetric else 0, self.shape[1], self.block):
                yield (slice(top, min(top + self.block, self.shape[0])),
                       slice(left, min(left + self.block, self.shape[1])))

    def mirrored(self, rows: slice, columns: slice) -> bool:
        """Whether this tile also stands for its transpose on the other side of the diagonal."""
        return self.symmetric and rows != columns

    def buffer(self, like: Tensor) -> Tensor:
        """Memory for one tile."""
        return like.new_empty(min(self.block, self.shape[0]) * min(self.block, self.shape[1]))

    def scores(self, anchors: Tensor, candidates: Tensor, rows: slice, columns: slice, buffer: Tensor) -> Tensor:
        """Scores of one tile, or their shifted exponentials if there is a shift; excluded pairs are -inf or 0."""
        x, y = anchors[rows], candidates[columns]
        tile = torch.mm(x, y.t(), out=buffer[:len(x) * len(y)].view(len(x), len(y)))
        if self.shift is not None:
            tile.sub_(self.shift).exp_()
        piece = self._excluded.get((rows.start // self.block, columns.start // self.block))
        if piece is not None:
            tile[piece] = -torch.inf if self.shift is None else 0.0
        return tile

    def negative(self, rows: slice, columns: slice) -> Tensor:
        """Which pairs of a tile are not positive."""
        assert self.ids is not None
        return self.ids[0][rows, None] != self.ids[1][columns]


class _BlockwiseLogSumExp(torch.autograd.Function):
    """See :func:`blockwise_logsumexp`."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor | None, tiles: _Tiles) -> tuple[Tensor, ...]:
        others = anchors if candidates is None else candidates
        start = -torch.inf if tiles.shift is None else 0.0
        sums = [anchors.new_full((len(anchors),), start) for _ in range(1 if tiles.ids is None else 2)]

        def add(total: Tensor, tile: Tensor, where: slice, dim: int) -> None:
            if tiles.shift is None:
                total[where] = torch.logaddexp(total[where], tile.logsumexp(dim))
            else:
                total[where] += tile.sum(dim)

        buffer = tiles.buffer(anchors)
        for rows, columns in tiles:
            tile = tiles.scores(anchors, others, rows, columns, buffer)
            parts = [tile]
            if tiles.ids is not None:
                parts.append(tile.masked_fill(tiles.negative(rows, columns), start))
            for total, part in zip(sums, parts, strict=True):
                add(total, part, rows, 1)
                if tiles.mirrored(rows, columns):
                    add(total, part, columns, 0)
        if tiles.shift is not None:
            sums = [total.log().add_(tiles.shift) for total in sums]
        sums = [total.masked_fill_(total == -torch.inf, 0.0) for total in sums]
        kept = buffer.view(tiles.shape) if tiles.single else None
        ctx.save_for_backward(anchors, candidates, kept, *sums)
        ctx.tiles = tiles
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, kept, *sums = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        others = anchors if candidates is None else candidates
        grad_anchors = torch.zeros_like(anchors)
        grad_others = grad_anchors if candidates is None else torch.zeros_like(others)
        with torch.autocast(anchors.device.type, enabled=False):
            if tiles.shift is not None:  # d lse_i / d s_ij = exp(s_ij - shift) * exp(shift - lse_i)
                factors = [grad * (tiles.shift - total).exp() for grad, total in zip(grads, sums, strict=True)]
            buffer, weight_buffer = tiles.buffer(anchors), tiles.buffer(anchors)
            for rows, columns in tiles:
                tile = kept if kept is not None else tiles.scores(anchors, others, rows, columns, buffer)
                weight = weight_buffer[:tile.numel()].view(tile.shape)
                if tiles.shift is not None:
                    _outer_sum(factors[0], rows, columns, tiles.symmetric, weight)
                    if tiles.ids is not None:
                        second = _outer_sum(factors[1], rows, columns, tiles.symmetric, torch.empty_like(weight))
                        weight.add_(second.masked_fill_(tiles.negative(rows, columns), 0.0))
                    weight.mul_(tile)
                else:
                    weight.zero_()
                    for number, (grad, total) in enumerate(zip(grads, sums, strict=True)):
                        if number == 1:
                            tile = tile.masked_fill(tiles.negative(rows, columns), -torch.inf)
                        weight.add_((tile - total[rows, None]).exp_().mul_(grad[rows, None]))
                        if tiles.symmetric:
                            weight.add_((tile - total[columns]).exp_().mul_(grad[columns]))
                grad_anchors[rows].addmm_(weight, others[columns])
                if not tiles.symmetric or rows != columns:
                    grad_others[columns].addmm_(weight.t(), anchors[rows])
        return grad_anchors, None if candidates is None else grad_others, None


def _outer_sum(vector: Tensor, rows: slice, columns: slice, symmetric: bool, out: Tensor) -> Tensor:
    """Write ``vector_i + vector_j`` (symmetric) or ``vector_i`` into a tile."""
    if symmetric:
        return torch.add(vector[rows, None], vector[columns], out=out)
    return out.copy_(vector[rows, None].expand_as(out))


def blockwise_logsumexp(anchors: Tensor, candidates: Tensor | None, excluded: tuple[Tensor, Tensor],
                        bound: float, ids: tuple[Tensor, Tensor] | None = None,
                        block_size: int | None = None) -> tuple[Tensor, ...]:
    r"""Log-sum-exp of the scores of every anchor, :math:`\log \sum_a \exp(x_i \cdot y_a)`.

    Args:
        anchors: Rows x, float32 or float64. Shape (A, D).
        candidates: Rows y, same type. Shape (K, D). None if they are the anchors themselves; this costs half.
        excluded: Index pairs (anchor, candidate) that are left out, no pair twice; every anchor's pair with
            itself belongs here. Without candidates, each pair must be given in both directions.
            Two int64 tensors (P,).
        bound: No score is larger than this nor smaller than its negative.
        ids: Identities of the anchors (A,) and candidates (K,). If given, the log-sum-exp over the candidates of
            the anchor's own identity is returned as well.
        block_size: Side of a tile. Defaults to :func:`default_block_size`.

    Returns:
        Log-sum-exp over all candidates (A,) and, with ``ids``, over those of the same identity (A,). Where no
        candidate is left, 0.

    Raises:
        RuntimeError: When it is differentiated twice.
    """
    block = block_size or default_block_size(anchors.device)
    shift = bound if 2 * bound <= _SAFE_SPREAD[anchors.dtype] else None
    shape = (len(anchors), len(anchors if candidates is None else candidates))
    tiles = _Tiles(shape, candidates is None, block, shift, excluded, ids)
    return _BlockwiseLogSumExp.apply(anchors, candidates, tiles)
