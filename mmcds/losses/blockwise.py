"""Exact log-sum-exp over all pairs of rows, in tiles that fit the cache: what every contrastive loss is made of.

The similarity matrix is never held. Forward computes it tile by tile and keeps one number per row; backward
computes the tiles again. In the local case, where anchors and candidates are the same rows, the matrix is
symmetric, so only the tiles on and above the diagonal are computed and each serves both of its sides::

        J=0  J=1  J=2
    I=0  x    x    x      forward:  1/2 of a full matrix product
    I=1       x    x      backward: 1/2 to compute the tiles again, and 1 to apply each to both sides
    I=2            x

so forward and backward together cost two products of the full matrix instead of the three of plain autograd.

Inside, scores are counted in units of log 2, because ``exp2`` is up to three times as fast as ``exp`` on a CPU and the
factor is free: the product applies it.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

# If all scores lie within +-30, exp(score) and every sum and product of it that is needed here stay normal numbers
# in float32 (float64: +-300), so that one exponential without a shift serves the rows and the columns of a tile.
_SAFE_BOUND = {torch.float32: 30.0, torch.float64: 300.0}
_NOTHING = -1e30  # no score is as small
_LN2 = math.log(2)


def default_block_size(device: torch.device) -> int:
    """Return the side of a tile: 768 on the CPU, where it must stay in the cache, else 4096 (64 MiB in float32).

    The value for the CPU is measured (``benchmarks/contrastive_loss.py``), the one for GPUs is not.
    """
    return 768 if device.type == 'cpu' else 4096


def _threads(device: torch.device) -> int:
    """Return in how many parts a product down a tile's columns is summed: the threads of a small CPU, else 1.

    PyTorch gives every thread a run of rows. Where cores share no cache, rows that one thread has written and others
    have read are slow to write again: with plain sums and products down the columns, forward took 1.35 times as long
    and backward 1.1 times, on a virtual machine with two cores. So these are taken over the run of every thread first.
    """
    if device.type != 'cpu' or torch.compiler.is_compiling():
        return 1
    threads = torch.get_num_threads()
    return threads if threads <= 4 else 1


class _Tiles:
    """Cuts the score matrix into tiles and computes them; holds everything that has no gradient.

    Args:
        shape: Numbers of anchors A and candidates K.
        symmetric: Whether anchors and candidates are the same rows.
        block: Side of a tile.
        scale: Factor of the scores.
        safe: Whether exp(score) can be taken without a shift.
        own: Where the anchors stand among the candidates, as runs (first anchor, first candidate, number); the pair of
            an anchor with itself does not count.
        ids: Identity of every anchor (A,) and candidate (K,): equal means positive. None if not needed.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        symmetric: bool,
        block: int,
        scale: float,
        safe: bool,
        own: Sequence[tuple[int, int, int]],
        ids: tuple[Tensor, Tensor] | None,
    ) -> None:
        self.shape, self.symmetric, self.block = shape, symmetric, block
        self.scale, self.safe = scale, safe
        self.single = max(shape) <= block
        self.ids = None if ids is None else (ids[0][:, None].split(block), ids[1].split(block))
        self.own = own

    def own_pairs(self, i: int, j: int) -> Iterator[tuple[int, int, int]]:
        """Go through the runs of anchors with themselves in a tile: first row, first column, and number."""
        for anchor, candidate, count in self.own:
            first = max(0, i * self.block - anchor, j * self.block - candidate)
            last = min(count, (i + 1) * self.block - anchor, (j + 1) * self.block - candidate)
            if first < last:
                yield anchor + first - i * self.block, candidate + first - j * self.block, last - first

    def columns(self) -> Iterator[tuple[int, range]]:
        """Go through the tiles that have to be computed, column by column, as numbers of their blocks of rows."""
        down, across = (-(-size // self.block) for size in self.shape)
        for j in range(across):
            yield j, range(j + 1 if self.symmetric else down)

    def buffer(self, like: Tensor) -> Tensor:
        """Return memory for one tile."""
        return like.new_empty(min(self.block, self.shape[0]), min(self.block, self.shape[1]))

    def compute(self, i: int, j: int, x: Tensor, y: Tensor, buffer: Tensor) -> Tensor:
        """Return exp(score) if that is safe, or else score / log 2; the pair of an anchor with itself is 0 or -inf."""
        tile = _cut(buffer, len(x), len(y)).addmm_(x, y.t(), beta=0, alpha=self.scale / _LN2)
        if self.safe:
            tile.exp2_()
        for row, column, count in self.own_pairs(i, j):
            tile[row : row + count, column : column + count].diagonal().fill_(self.nothing)
        return tile

    @property
    def nothing(self) -> float:
        """Return what :meth:`compute` gives for a pair that does not count."""
        return 0.0 if self.safe else -torch.inf

    def negative(self, i: int, j: int) -> Tensor:
        """Return which pairs of a tile are not positive."""
        assert self.ids is not None
        return self.ids[0][i] != self.ids[1][j]


class _Refuse(torch.autograd.Function):
    """Passes a first derivative on and refuses to be differentiated itself."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise RuntimeError(
            'supcon_loss and ntxent_loss have no second derivative: their backward pass keeps no '
            'graph. Leave them out of what is differentiated twice, such as a gradient penalty.'
        )


def refuse_second_derivative(grad: Tensor, *sources: Tensor) -> Tensor:
    """Make a first derivative that was computed without a graph fail if it is differentiated by its sources."""
    return _Refuse.apply(grad, *sources) if torch.is_grad_enabled() else grad


# Forward, with s_ij the score of anchor i and candidate j:
#   1. Go through the tiles column by column and compute e_ij = exp(s_ij), or, where exp could overflow, s_ij.
#   2. Add every row of the tile to its anchor's sum; in the local case also every column, as s_ij = s_ji.
#   3. With identities, set the pairs that are not positive to nothing and add the rest to the second sum.
#   4. Take the logarithm. Kept for backward: the rows, one number per anchor and sum, and a tile that is the only one.
# Backward, with g_i the gradient of anchor i's log-sum-exp:
#   1. Compute the tile again.
#   2. d loss / d s_ij = g_i exp(s_ij - lse_i), and in the local case + g_j exp(s_ij - lse_j), as the tile stands for
#      both of its sides; with identities, the same of the second sum is added where the pair is positive.
#   3. Multiply by the candidates for the anchors' gradient and, transposed, by the anchors for the candidates'.
class _BlockwiseLogSumExp(torch.autograd.Function):
    """See :func:`blockwise_logsumexp`."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor | None, tiles: _Tiles) -> tuple[Tensor, ...]:
        sums = [anchors.new_full((len(anchors),), tiles.nothing) for _ in range(1 if tiles.ids is None else 2)]
        x, parts = anchors.split(tiles.block), [total.split(tiles.block) for total in sums]
        y = x if candidates is None else candidates.split(tiles.block)

        buffer = tiles.buffer(anchors)

        def add(total: Tensor, tile: Tensor, dim: int) -> None:
            if tiles.safe:
                total.add_(_sum(tile, dim))
            else:
                total.copy_(torch.logaddexp2(total, _logsumexp(tile, dim)))

        for j, down in tiles.columns():
            for i in down:
                tile = tiles.compute(i, j, x[i], y[j], buffer)
                for number, part in enumerate(parts):
                    if number == 1:
                        tile = tile.masked_fill(tiles.negative(i, j), tiles.nothing)
                    add(part[i], tile, 1)
                    if tiles.symmetric and i != j:
                        add(part[j], tile, 0)
        if tiles.safe:
            sums = [total.log2() for total in sums]
        sums = [total.masked_fill_(total < _NOTHING, 0.0).mul_(_LN2) for total in sums]
        ctx.tiles = tiles
        ctx.save_for_backward(anchors, candidates, buffer if tiles.single else None, *sums)
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad(), torch.autocast(grads[0].device.type, enabled=False):
            found = _BlockwiseLogSumExp._backward(ctx, grads)
        sources = (*(tensor for tensor in ctx.saved_tensors[:2] if tensor is not None), *grads)
        return *(None if grad is None else refuse_second_derivative(grad, *sources) for grad in found), None

    @staticmethod
    def _backward(ctx: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        anchors, candidates, kept, *sums = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        grad_anchors = torch.zeros_like(anchors)
        grad_candidates = None if candidates is None else torch.zeros_like(candidates)
        x, dx = anchors.split(tiles.block), grad_anchors.split(tiles.block)
        y = x if candidates is None else candidates.split(tiles.block)
        dy = dx if grad_candidates is None else grad_candidates.split(tiles.block)
        if tiles.safe:  # d lse_i / d s_ij = exp(s_ij) * exp(-lse_i)
            slopes = [(grad * total.neg().exp_()).split(tiles.block) for grad, total in zip(grads, sums, strict=True)]
            weigh = partial(_weigh_exponentials, tiles, slopes)
        else:
            levels = [(total / _LN2).split(tiles.block) for total in sums]
            weigh = partial(_weigh_scores, tiles, [grad.split(tiles.block) for grad in grads], levels)
        buffer, weight_buffer = tiles.buffer(anchors), tiles.buffer(anchors)
        threads = _threads(anchors.device)
        for j, down in tiles.columns():
            one_sided = tiles.symmetric and j == 0  # nothing but a tile of the diagonal
            parts = anchors.new_zeros(0 if one_sided else threads, *y[j].shape)
            for i in down:
                tile = tiles.compute(i, j, x[i], y[j], buffer) if kept is None else kept
                weight = weigh(i, j, tile, _cut(weight_buffer, *tile.shape))
                dx[i].addmm_(weight, y[j], alpha=tiles.scale)
                if not tiles.symmetric or i != j:
                    runs = threads if len(weight) % threads == 0 else 1
                    left, right = (rows.unflatten(0, (runs, -1)) for rows in (weight, x[i]))
                    parts[:runs].baddbmm_(left.mT, right, alpha=tiles.scale)
            if not one_sided:
                dy[j].add_(parts.sum(0))
        return grad_anchors, grad_candidates


def _exp2(exponents: Tensor) -> Tensor:
    """Raise 2 to numbers <= 0, in place; a result that is lost in rounding is replaced by a tiny normal number.

    Subnormal numbers and infinities would make the exponential, and subnormal ones the products, several times slower.
    """
    return exponents.clamp_(min=-2 / _LN2 * _SAFE_BOUND[exponents.dtype], max=0.0).exp2_()


def _sum(tile: Tensor, dim: int) -> Tensor:
    """Return the sum along dim 0 or 1; along dim 0, down the columns, in runs of rows first, see :func:`_threads`."""
    if dim == 1:
        return tile.sum(1)
    runs = math.gcd(len(tile), 24)  # 24 can be shared out to two, three or four threads
    return tile.unflatten(0, (runs, -1)).sum(1).sum(0)


def _logsumexp(tile: Tensor, dim: int) -> Tensor:
    """Return the log-sum-exp along dim 0 or 1, base 2; below _NOTHING where all of it is -inf."""
    largest = tile.amax(dim, keepdim=True).clamp_(min=2 * _NOTHING)
    return _sum(_exp2(tile - largest), dim).log2_().add_(largest.squeeze(dim))


def _cut(buffer: Tensor, height: int, width: int) -> Tensor:
    """Return the start of a buffer as a matrix; tiles at the edge are smaller."""
    return buffer if buffer.shape == (height, width) else buffer.view(-1)[: height * width].view(height, width)


_Blocks = list[tuple[Tensor, ...]]


def _weigh_exponentials(tiles: _Tiles, slopes: _Blocks, i: int, j: int, tile: Tensor, out: Tensor) -> Tensor:
    """Return the gradient of the scores of a tile, from their exponentials."""

    def slope(number: int, out: Tensor) -> Tensor:
        down = slopes[number][i][:, None]
        return torch.add(down, slopes[number][j], out=out) if tiles.symmetric else out.copy_(down.expand_as(out))

    slope(0, out)
    if len(slopes) == 2:
        out.add_(slope(1, torch.empty_like(out)).masked_fill_(tiles.negative(i, j), 0.0))
    return out.mul_(tile)


def _weigh_scores(
    tiles: _Tiles, slopes: _Blocks, levels: _Blocks, i: int, j: int, tile: Tensor, out: Tensor
) -> Tensor:
    """Return the gradient of the scores of a tile, from the scores themselves: one exponential for each side."""
    out.zero_()
    for number, (slope, level) in enumerate(zip(slopes, levels, strict=True)):
        sides = [(level[i][:, None], slope[i][:, None])] + ([(level[j], slope[j])] if tiles.symmetric else [])
        for log_sum, factor in sides:
            share = _exp2(tile - log_sum)
            if number == 1:
                share.masked_fill_(tiles.negative(i, j), 0.0)
            out.addcmul_(share, factor)
    return out


def blockwise_logsumexp(
    anchors: Tensor,
    candidates: Tensor | None,
    own: Sequence[tuple[int, int, int]],
    bound: float,
    scale: float = 1.0,
    ids: tuple[Tensor, Tensor] | None = None,
    block_size: int | None = None,
) -> tuple[Tensor, ...]:
    r"""Return the log-sum-exp of the scores of every anchor, :math:`\log \sum_a \exp(s\, x_i \cdot y_a)`.

    Args:
        anchors: Rows x, float32 or float64. Shape (A, D).
        candidates: Rows y, same type. Shape (K, D). None if they are the anchors themselves; this costs half.
        own: Where the anchors stand among the candidates, as runs (first anchor, first candidate, number); the pair of
            an anchor with itself is left out. Numbers, not tensors, so that nothing waits for a GPU.
        bound: No score is larger than this nor smaller than its negative.
        scale: Factor s of the scores.
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
    shape = (len(anchors), len(anchors if candidates is None else candidates))
    tiles = _Tiles(shape, candidates is None, block, scale, bound <= _SAFE_BOUND[anchors.dtype], own, ids)
    if tiles.single:
        return _BlockwiseLogSumExp.apply(anchors, candidates, tiles)
    return _in_tiles(anchors, candidates, tiles)


@_disable_dynamo  # as torch.compiler.disable without importing the compiler, which would write out every tile
def _in_tiles(*arguments: Any) -> tuple[Tensor, ...]:
    return _BlockwiseLogSumExp.apply(*arguments)
