"""The sums of a contrastive loss on a GPU, several taps at once: a tile of scores lives and dies on the chip.

What :mod:`mmcds.losses.blockwise` and :mod:`mmcds.losses.class_sums` compute with PyTorch's operations is here one
kernel forward and one backward, written in Triton, for the rows of all taps. A program owns some rows, goes through
the columns that concern them, and is the only one that writes there: no atomics, so two runs agree bit for bit.

With wide rows most of the time goes into products, so these are left to cuBLAS: some rows with all columns into a
buffer, one kernel that goes over the scores, and in the backward pass a second product.

Scores are symmetric. Backward uses that: the weight of a pair holds what both of its rows want, so one pass gives the
whole gradient. Forward does not: half of its products could be saved by adding every tile to its columns too, at the
price of a buffer of partial sums and a second kernel.

Relative error of the gradient in float64 with rounded operands (2,048 x 128 rows, 100 classes, temperature 0.07), for
random rows, and for classes in tight clusters, where nearly all of the gradient cancels: float32 4e-8 and 7e-6, TF32
and float16 3e-4 and 4e-2, bfloat16 2e-3 and 0.3. A GPU adds the errors of its sums.

The kernels are tested in Triton's interpreter (``TRITON_INTERPRET=1``) and compiled for sm_90; they have not been run
on a GPU. Hence :func:`usable`, which compares them with a plain formula before they are trusted.
"""

# mypy: allow-untyped-defs
# (Triton gives the arguments of kernels their types.)

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from mmcds.core.errors import ConfigError
from mmcds.core.self_check import find_fault
from mmcds.losses.blockwise import refuse_second_derivative

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:  # there are none for some systems; `usable` says so
    triton = constexpr = None


class _Precision(NamedTuple):
    """How rows are multiplied: the type they are rounded to, what Triton does with float32, and the tiles.

    A program has B rows, goes through the columns BC by BC, and multiplies BD of their numbers at a time. With
    these sizes no kernel for rows of 128 numbers spills registers on sm_90 (the tests compile them); they are not
    tuned.
    """

    dtype: torch.dtype
    dot: str
    tile: dict[str, int]


_SIXTEEN_BITS = dict(B=64, BC=64, BD=128, num_warps=8, num_stages=2)
PRECISIONS = {
    'float32': _Precision(torch.float32, 'ieee', dict(B=32, BC=32, BD=32, num_warps=4, num_stages=1)),
    'tf32x3': _Precision(torch.float32, 'tf32x3', dict(B=64, BC=32, BD=32, num_warps=8, num_stages=2)),
    'tf32': _Precision(torch.float32, 'tf32', dict(B=64, BC=64, BD=64, num_warps=8, num_stages=2)),
    'float16': _Precision(torch.float16, 'ieee', _SIXTEEN_BITS),
    'bfloat16': _Precision(torch.bfloat16, 'ieee', _SIXTEEN_BITS),
}
_SAFE_SCALE = 30.0  # exp(+-30), its sums over rows and its products with gradients are normal numbers in float32
_WIDE = 512  # rows of this width or more are multiplied by cuBLAS
_BUFFER = 2**25  # bytes for scores and weights of some rows: less than the L2 cache of an H100
_LEAST_ANCHORS = 128  # of a part: products of fewer rows leave most of a GPU idle
_LARGE_WEIGHT = 4096.0  # the largest gradient in float16, so that small weights are not lost in rounding

if triton is not None:
    _INTERPRETED = bool(triton.knobs.runtime.interpret)
    _EPILOGUE = dict(B=16, BC=128) if _INTERPRETED else dict(B=1, BC=1024, num_warps=4)
    _UPCAST = constexpr(_INTERPRETED)  # the interpreter multiplies bfloat16 wrongly
    _LOG2E = constexpr(1 / math.log(2))
    _LN2 = constexpr(math.log(2))
    # Not compiled anew for numbers that happen to be 1 or multiples of 16
    _jit = partial(triton.jit, do_not_specialize=('start', 'stop', 'images', 'first', 'number'))
else:

    def _jit(function: Any) -> Any:  # type: ignore[misc]
        return function


# Anchors and rows. With V views of N images, row v * N + i is view v of image i; anchor v * n + i - first is the same
# row, counted among the n images from `first` on that have anchors.


@_jit
def _row_of(anchor, images, first, number):
    return (anchor // number) * images + first + anchor % number


@_jit
def _load(x, rows, row_mask, columns, width):
    """Load some columns of some rows; what lies outside is 0."""
    mask = row_mask[:, None] & (columns < width)[None, :]
    return tl.load(x + rows[:, None] * width + columns[None, :], mask=mask, other=0.0)


@_jit
def _dot(a, b, total, PRECISION: constexpr):
    if _UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@_jit
def _products(
    x, rows, row_mask, columns, column_mask,
    D: constexpr, BD: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Multiply rows by other rows."""
    total = tl.zeros((rows.shape[0], columns.shape[0]), dtype=tl.float32)
    for begin in range(0, D, BD):
        part = begin + tl.arange(0, BD)
        a = _load(x, rows, row_mask, part, D)
        b = _load(x, columns, column_mask, part, D)
        total = _dot(a, tl.trans(b), total, PRECISION)
    return total


@_jit
def _add(scores, total, top, SAFE: constexpr):
    """Add the exponentials of a tile to the sums of its rows, which are in units of 2**top."""
    if SAFE:
        total += tl.sum(tl.exp2(scores), 1)
    else:
        new = tl.maximum(top, tl.max(scores, 1))
        total = total * tl.exp2(top - new) + tl.sum(tl.exp2(scores - new[:, None]), 1)
        top = new
    return total, top


@_jit
def _log(total, top):
    none = total == 0  # neither a pair nor NaN
    return tl.where(none, 0.0, (top + tl.log2(tl.where(none, 1.0, total))) * _LN2)


# Forward: scores s = scale * x_r . x_j in units of log 2, for anchors r of this program and columns j, tile by tile.
#   1. Compute the tile, or load it if cuBLAS has multiplied.
#   2. Add exp(s) to the anchor's sum, except at the pair with itself; if no score is large, without a running maximum.
#   3. Where the ids are the same, add s, or exp(s) to a second sum.
@_jit
def _forward(
    x, scores, ids, scale, log_all, positive, start, stop, M, images, first, number,
    D: constexpr, BD: constexpr, BO: constexpr, B: constexpr, BC: constexpr, INSIDE: constexpr,
    SAFE: constexpr, PRECISION: constexpr, PRODUCTS: constexpr,
):  # fmt: skip
    """Compute the log-sum-exp and the sum of positives of the anchors from `start` to `stop`."""
    tap = tl.program_id(1).to(tl.int64)
    anchors = start + tl.program_id(0) * B + tl.arange(0, B)
    inside = anchors < stop
    rows = _row_of(anchors, images, first, number)
    row_ids = tl.load(ids + rows, mask=inside, other=0)
    factor = tl.load(scale) * _LOG2E
    total = tl.zeros((B,), dtype=tl.float32)
    total_positive = tl.zeros((B,), dtype=tl.float32)
    top = tl.full((B,), 0.0 if SAFE else -1e30, tl.float32)
    top_positive = top
    if PRODUCTS:
        scores += tap * (stop - start) * M
    else:
        x += tap * M * D
    for begin in range(0, M, BC):
        columns = begin + tl.arange(0, BC)
        column_mask = columns < M
        if PRODUCTS:
            s = _load(scores, anchors - start, inside, columns, M)
        else:
            s = _products(x, rows, inside, columns, column_mask, D, BD, PRECISION)
        s *= factor
        column_ids = tl.load(ids + columns, mask=column_mask, other=0)
        others = (rows[:, None] != columns[None, :]) & column_mask[None, :]
        same = others & (row_ids[:, None] == column_ids[None, :])
        total, top = _add(tl.where(others, s, float('-inf')), total, top, SAFE)
        if INSIDE:
            total_positive, top_positive = _add(tl.where(same, s, float('-inf')), total_positive, top_positive, SAFE)
        else:
            total_positive += tl.sum(tl.where(same, s, 0.0), 1)
    place = tap * number * (M // images) + anchors
    tl.store(log_all + place, _log(total, top), mask=inside)
    found = _log(total_positive, top_positive) if INSIDE else total_positive * _LN2
    tl.store(positive + place, found, mask=inside)


@_jit
def _side(rows, mask, ids, log_all, positive, grad_all, grad_positive, images, first, number, ANCHORS: constexpr):
    """Load what the weights of pairs depend on: numbers of the rows, ids, and what they have as anchors.

    That is two logarithms, in units of log 2, and two gradients; rows that are no anchors have gradients 0.
    """
    image = rows % images - first
    anchor = mask & (image >= 0) & (image < number) & ANCHORS
    place = (rows // images) * number + image
    log_a = tl.load(log_all + place, mask=anchor, other=0.0) * _LOG2E
    log_p = tl.load(positive + place, mask=anchor, other=0.0) * _LOG2E
    grad_a = tl.load(grad_all + place, mask=anchor, other=0.0)
    grad_p = tl.load(grad_positive + place, mask=anchor, other=0.0)
    return rows, tl.load(ids + rows, mask=mask, other=0), log_a, grad_a, log_p, grad_p


@_jit
def _share(s, log_r, grad_r, log_c, grad_c, SAFE: constexpr):
    """Compute the gradient of scores through the log-sum-exp of their row and that of their column."""
    if SAFE:
        return tl.exp2(s) * ((grad_r * tl.exp2(-log_r))[:, None] + (grad_c * tl.exp2(-log_c))[None, :])
    else:
        # No pair that counts has a share above 1, and NaN shall stay
        of_row = tl.exp2(tl.minimum(s - log_r[:, None], 0.0, tl.PropagateNan.ALL)) * grad_r[:, None]
        return of_row + tl.exp2(tl.minimum(s - log_c[None, :], 0.0, tl.PropagateNan.ALL)) * grad_c[None, :]


@_jit
def _weights(s, row_side, column_side, INSIDE: constexpr, SAFE: constexpr):
    """Compute the gradient of the scores of a tile: finite, but meaningless for columns that do not exist."""
    rows, row_ids, log_r, grad_r, log_positive_r, grad_positive_r = row_side
    columns, column_ids, log_c, grad_c, log_positive_c, grad_positive_c = column_side
    if INSIDE:
        pull = _share(s, log_positive_r, grad_positive_r, log_positive_c, grad_positive_c, SAFE)
    else:
        pull = grad_positive_r[:, None] + grad_positive_c[None, :]
    weights = _share(s, log_r, grad_r, log_c, grad_c, SAFE)
    weights += tl.where(row_ids[:, None] == column_ids[None, :], pull, 0.0)
    return tl.where(rows[:, None] != columns[None, :], weights, 0.0)


# Backward: dx_r = scale * sum_j w_rj x_j. As the score of r and j is that of j and r, the weight is that of anchor r
# for column j and that of anchor j for column r, and the sum over j is all of the gradient of row r.
#   1. A program with an anchor among its rows goes through all columns, any other one only through the anchors.
#   2. Compute the tile of scores again, and its weights.
#   3. Multiply by the columns. Wide rows are divided among programs, each of which computes the scores.
@_jit
def _backward(
    x, ids, scale, log_all, positive, grad_all, grad_positive, dx, M, images, first, number,
    D: constexpr, BD: constexpr, BO: constexpr, B: constexpr, BC: constexpr, INSIDE: constexpr,
    SAFE: constexpr, PRECISION: constexpr,
):  # fmt: skip
    """Compute dx / scale of some rows, some of their D columns wide."""
    tap = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * B + tl.arange(0, B)
    inside = rows < M
    part = tl.program_id(2) * BO + tl.arange(0, BO)
    anchors = number * (M // images)
    x += tap * M * D
    dx += tap * M * D
    log_all += tap * anchors
    positive += tap * anchors
    grad_all += tap * anchors
    grad_positive += tap * anchors
    factor = tl.load(scale) * _LOG2E
    row_side = _side(rows, inside, ids, log_all, positive, grad_all, grad_positive, images, first, number, True)
    image = rows % images - first
    any_anchor = tl.max((inside & (image >= 0) & (image < number)).to(tl.int32)) > 0
    stop = tl.where(any_anchor, M, anchors)
    own = _load(x, rows, inside, part, D)
    total = tl.zeros((B, BO), dtype=tl.float32)
    for begin in range(0, stop, BC):
        places = begin + tl.arange(0, BC)
        column_mask = places < stop
        columns = tl.where(any_anchor, places, _row_of(places, images, first, number))
        y = _load(x, columns, column_mask, part, D)  # 0 where there is no column
        if D <= BD:
            s = _dot(own, tl.trans(y), tl.zeros((B, BC), dtype=tl.float32), PRECISION)
        else:
            s = _products(x, rows, inside, columns, column_mask, D, BD, PRECISION)
        column_side = _side(
            columns, column_mask, ids, log_all, positive, grad_all, grad_positive, images, first, number, True
        )
        weights = _weights(s * factor, row_side, column_side, INSIDE, SAFE)
        total = _dot(weights.to(y.dtype), y, total, PRECISION)
    place = rows[:, None] * D + part[None, :]
    tl.store(dx + place, total, mask=inside[:, None] & (part < D)[None, :])


@_jit
def _scores_to_weights(
    scores, weights, ids, scale, log_all, positive, grad_all, grad_positive, start, stop, M, images, first, number,
    BOTH: constexpr, B: constexpr, BC: constexpr, INSIDE: constexpr, SAFE: constexpr,
):  # fmt: skip
    """Turn products of the anchors from `start` to `stop` with all rows into weights.

    With BOTH, all rows are anchors, and the weights are those of the pair; otherwise those of the anchor alone.
    """
    tap = tl.program_id(2).to(tl.int64)
    anchors = start + tl.program_id(0) * B + tl.arange(0, B)
    inside = anchors < stop
    columns = tl.program_id(1) * BC + tl.arange(0, BC)
    column_mask = columns < M
    count = number * (M // images)
    log_all += tap * count
    positive += tap * count
    grad_all += tap * count
    grad_positive += tap * count
    rows = _row_of(anchors, images, first, number)
    row_side = _side(rows, inside, ids, log_all, positive, grad_all, grad_positive, images, first, number, True)
    column_side = _side(
        columns, column_mask, ids, log_all, positive, grad_all, grad_positive, images, first, number, BOTH
    )
    place = tap * (stop - start) * M + (anchors - start)[:, None] * M + columns[None, :]
    mask = inside[:, None] & column_mask[None, :]
    s = tl.load(scores + place, mask=mask, other=0.0) * (tl.load(scale) * _LOG2E)
    tl.store(weights + place, _weights(s, row_side, column_side, INSIDE, SAFE), mask=mask)


def _tile(precision: str, width: int) -> dict[str, int]:
    """Return the sizes of :func:`_forward` and :func:`_backward`, which writes BO columns of D, and the warps."""
    if _INTERPRETED:
        return dict(B=16, BC=32, BD=32, BO=32)
    tile, power = PRECISIONS[precision].tile, max(16, triton.next_power_of_2(width))
    return dict(tile, BD=min(power, tile['BD']), BO=min(power, 128))


@contextmanager
def _prepared(rows: Tensor, precision: str) -> Iterator[None]:
    """Launch on the device of the rows, and let cuBLAS multiply float32 as the precision says."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = 'tf32' if precision == 'tf32' else 'ieee'
    try:
        with torch.cuda.device_of(rows) if rows.is_cuda else nullcontext():
            yield
    finally:
        matmul.fp32_precision = before


def _multiply(a: Tensor, b: Tensor, out: Tensor, keep: bool = False) -> None:
    """Write the product of two batches of matrices, in float32; add it to what is there if that is to be kept.

    Autocast leaves operations alone that write to what they are given.
    """
    if a.is_cuda and a.dtype != torch.float32:
        torch.baddbmm(out, a, b, torch.float32, beta=float(keep), out=out)
    else:
        torch.baddbmm(out, a.float(), b.float(), beta=float(keep), out=out)


def _parts(x: Tensor, anchors: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Go through the anchors in parts: first, last + 1, memory for their scores, and for their weights in x's type."""
    taps, size, _ = x.shape
    half = x.dtype != torch.float32
    step = min(anchors, max(_LEAST_ANCHORS, _BUFFER // (taps * size * (6 if half else 4))))
    scores = x.new_empty(taps * step * size, dtype=torch.float32)
    weights = x.new_empty(taps * step * size) if half else scores
    for start in range(0, anchors, step):
        stop = min(anchors, start + step)
        count, shape = taps * (stop - start) * size, (taps, stop - start, size)
        yield start, stop, scores[:count].view(shape), weights[:count].view(shape)


def _anchor_rows(x: Tensor, place: Sequence[int]) -> Tensor:
    """Return the rows of the anchors: (T, V, n, D) of (T, V * N, D), as a view."""
    images, first, number = place
    return x.unflatten(1, (-1, images))[:, :, first : first + number]


@torch.library.custom_op('mmcds::contrast', mutates_args=())
def _contrast(
    rows: Tensor,
    ids: Tensor,
    scale: Tensor,
    place: Sequence[int],
    inside: bool,
    safe: bool,
    precision: str,
    chunked: bool,
) -> tuple[Tensor, Tensor]:
    """Compute both results of :func:`fused_contrast`.

    Args:
        rows: (T, M, D).
        ids: (M,).
        scale: (), float32.
        place: Images N, the first one whose rows are anchors, and the number of such images.
        inside: Whether the second result is a log-sum-exp.
        safe: Whether exponentials can be taken without a running maximum.
        precision: One of PRECISIONS.
        chunked: Whether cuBLAS multiplies.
    """
    log_all, positive = _contrast_fake(rows, ids, scale, place)
    if not log_all.numel():
        return log_all, positive
    taps, size, width = rows.shape
    anchors = log_all.shape[1]
    dtype, dot, _ = PRECISIONS[precision]
    x = rows.to(dtype).contiguous()
    options = dict(D=width, INSIDE=inside, SAFE=safe, PRECISION=dot, PRODUCTS=chunked)
    with _prepared(rows, precision):
        if chunked:
            own = _anchor_rows(x, place).flatten(1, 2)
            tile = dict(_EPILOGUE, BD=0, BO=0)
            for start, stop, scores, _ in _parts(x, anchors):
                _multiply(own[:, start:stop], x.mT, scores)
                _forward[triton.cdiv(stop - start, tile['B']), taps](
                    None, scores, ids, scale, log_all, positive, start, stop, size, *place, **options, **tile
                )
        else:
            tile = _tile(precision, width)
            _forward[triton.cdiv(anchors, tile['B']), taps](
                x, None, ids, scale, log_all, positive, 0, anchors, size, *place, **options, **tile
            )
    return log_all, positive


@_contrast.register_fake
def _contrast_fake(
    rows: Tensor, ids: Tensor, scale: Tensor, place: Sequence[int], *others: Any
) -> tuple[Tensor, Tensor]:
    images, _, number = place
    shape = (len(rows), rows.shape[1] // max(images, 1) * number)
    return rows.new_empty(shape, dtype=torch.float32), rows.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op('mmcds::contrast_backward', mutates_args=())
def _contrast_backward(
    rows: Tensor,
    ids: Tensor,
    scale: Tensor,
    log_all: Tensor,
    positive: Tensor,
    grad_all: Tensor,
    grad_positive: Tensor,
    place: Sequence[int],
    inside: bool,
    safe: bool,
    precision: str,
    chunked: bool,
) -> Tensor:
    """Compute the gradient of the rows, in float32; the arguments are those of ``contrast``."""
    taps, size, width = rows.shape
    anchors = log_all.shape[1]
    alone = chunked and anchors < size  # rows without anchors are added to
    dx = (rows.new_zeros if alone or not anchors else rows.new_empty)(rows.shape, dtype=torch.float32)
    if not log_all.numel():
        return dx
    dtype, dot, _ = PRECISIONS[precision]
    x = rows.to(dtype).contiguous()
    grads = torch.stack([grad_all, grad_positive])
    factor = scale
    if dtype == torch.float16:  # bring the weights into its range
        unit = grads.abs().amax().clamp_(min=1e-30).div_(_LARGE_WEIGHT)
        grads, factor = grads / unit, scale * unit
    sides = (ids, scale, log_all, positive, *grads)
    options = dict(INSIDE=inside, SAFE=safe)
    with _prepared(rows, precision):
        if chunked:
            own = _anchor_rows(x, place).flatten(1, 2)
            own_dx = torch.empty_like(own, dtype=torch.float32) if alone else dx
            for start, stop, scores, weights in _parts(x, anchors):
                part = own[:, start:stop]
                _multiply(part, x.mT, scores)
                grid = triton.cdiv(stop - start, _EPILOGUE['B']), triton.cdiv(size, _EPILOGUE['BC']), taps
                _scores_to_weights[grid](
                    scores, weights, *sides, start, stop, size, *place, BOTH=not alone, **options, **_EPILOGUE
                )
                _multiply(weights, x, own_dx[:, start:stop])
                if alone:
                    _multiply(weights.mT, part, dx, keep=True)
            if alone:
                _anchor_rows(dx, place).add_(own_dx.unflatten(1, (-1, place[2])))
        else:
            tile = _tile(precision, width)
            grid = triton.cdiv(size, tile['B']), taps, triton.cdiv(width, tile['BO'])
            _backward[grid](x, *sides, dx, size, *place, D=width, PRECISION=dot, **options, **tile)
    return dx.mul_(factor)


@_contrast_backward.register_fake
def _(rows: Tensor, *others: Any) -> Tensor:
    return rows.new_empty(rows.shape, dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rows, ids, scale, *ctx.options = inputs
    ctx.save_for_backward(rows, ids, scale, *output)


def _differentiate(ctx: Any, grad_all: Tensor, grad_positive: Tensor) -> tuple[Tensor | None, ...]:
    rows, ids, scale, log_all, positive = ctx.saved_tensors
    with torch.no_grad():
        found = _contrast_backward(rows, ids, scale, log_all, positive, grad_all, grad_positive, *ctx.options)
        grads = [found.to(rows.dtype), None]
        if ctx.needs_input_grad[2]:
            # Scores are scale * x . x, so twice the derivative by log(scale) is that by the logarithm of all rows
            grads[1] = (rows * found).sum() / (2 * scale)
    sources = (rows, scale, grad_all, grad_positive)
    rows_grad, scale_grad = (None if grad is None else refuse_second_derivative(grad, *sources) for grad in grads)
    return rows_grad, None, scale_grad, *(None for _ in ctx.options)


_contrast.register_autograd(_differentiate, setup_context=_keep)


def fused_contrast(
    rows: Tensor,
    ids: Tensor,
    scale: float | Tensor,
    *,
    views: int,
    images: int,
    local: slice | None = None,
    positives: str = 'out',
    precision: str = 'float32',
    chunked: bool | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return what SupCon and NT-Xent need of every anchor i, in all taps: one number of all rows, one of positives.

    .. math::
        \log \sum_{j \ne i} \exp(s\, x_i \cdot x_j), \qquad
        s \sum_{p \in P(i)} x_i \cdot x_p \quad\text{or}\quad \log \sum_{p \in P(i)} \exp(s\, x_i \cdot x_p)

    Differentiable once by rows and scale. Nothing waits for the GPU.

    Args:
        rows: Rows x of unit length or 0, view-major: row v * N + n is view v of image n. (T, V * N, D), float32,
            float16 or bfloat16.
        ids: Rows with the same number are positives of each other. (V * N,), int64.
        scale: s = 1 / tau, a number, or a scalar tensor on the device of the rows, which gets a gradient. A number
            of at most 30 is faster, as no running maximum is needed.
        views: V.
        images: N.
        local: Images whose rows are anchors; default all. Anchors are view-major like the rows.
        positives: Sum the positives outside (``'out'``) or inside (``'in'``) the logarithm.
        precision: What the products are computed in: ``'float32'``, ``'tf32x3'`` (with cuBLAS, float32), ``'tf32'``,
            ``'float16'`` or ``'bfloat16'``. Their sums are float32 in any case.
        chunked: Let cuBLAS multiply. Default: if D is 512 or more.

    Returns:
        Log-sum-exp over all other rows, and sum or log-sum-exp over positives. Both (T, A) with A = V * n for n
        anchor images, float32. Where there is no other row or no positive, 0.

    Raises:
        ConfigError: If the shapes do not fit, or for an unknown name.
        RuntimeError: When it is differentiated twice.
    """
    if rows.ndim != 3 or rows.shape[1] != views * images or ids.shape != rows.shape[1:2]:
        raise ConfigError(
            f'fused_contrast: rows must be (T, V * N, D) and ids (V * N,) with V = {views} and N = {images}, got '
            f'{tuple(rows.shape)} and {tuple(ids.shape)}. Give one id per row, for all views.'
        )
    if positives not in ('out', 'in'):
        raise ConfigError(f"fused_contrast: positives is {positives!r}; choose 'out' or 'in'.")
    if precision not in PRECISIONS:
        raise ConfigError(f'fused_contrast: precision is {precision!r}; choose one of {", ".join(PRECISIONS)}.')
    first, last, _ = (local or slice(None)).indices(images)
    if isinstance(scale, Tensor):
        factor, safe = scale.to(torch.float32), False
    else:
        factor, safe = rows.new_full((), scale, dtype=torch.float32), scale <= _SAFE_SCALE
    if chunked is None:
        chunked = rows.shape[2] >= _WIDE
    place = (images, first, max(0, last - first))
    return _contrast(rows, ids.contiguous(), factor, place, positives == 'in', safe, precision, chunked)


def usable(device: torch.device) -> bool:
    """Return whether :func:`fused_contrast` can be used: on a GPU with Triton, where it has been found right.

    The first call for a device runs the kernels on a few rows and compares them with a plain formula; if they fail,
    it says so in a warning. With fake tensors nothing is run.
    """
    if device.type != 'cuda' or triton is None:
        return False
    fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return fake is not None or _is_right(device)


# As torch.compiler.assume_constant_result, without importing the compiler: a graph holds what is found when it is made
usable._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _is_right(device: torch.device) -> bool:
    reason = find_fault(device, _largest_error, 1e-4, 'they differ from the plain formula by {:.1e}'.format)
    if reason:
        warnings.warn(
            f'The Triton kernels of the contrastive losses do not work on {device} ({reason}); the tiles of plain '
            'PyTorch are used instead.',
            stacklevel=3,
        )
    return not reason


def _largest_error(device: torch.device) -> float:
    """Compare results and gradients of all kernels with the plain formula in float64 on the CPU."""
    views, images, number = 2, 48, 20
    worst = 0.0
    with _disable_current_modes(), torch.inference_mode(False), torch.enable_grad():
        draw = torch.Generator('cpu').manual_seed(0)
        rows = torch.randn(2, views * images, 40, generator=draw, device='cpu', dtype=torch.float64)
        rows = (rows / rows.norm(dim=2, keepdim=True)).requires_grad_()
        ids = (torch.arange(images, device='cpu') % 5).repeat(views)
        for local, positives, scale in ((None, 'out', 14.0), (slice(7, 7 + number), 'in', 100.0)):
            expected = _plain(rows, ids, scale, views, local, positives)
            weights = [torch.randn(value.shape, generator=draw, device='cpu').to(value) for value in expected]
            (expected_grad,) = torch.autograd.grad(expected, rows, weights)
            for chunked in (False, True):
                x = rows.detach().to(device, torch.float32).requires_grad_()
                found = fused_contrast(
                    x, ids.to(device), scale, views=views, images=images, local=local, positives=positives,
                    chunked=chunked,
                )  # fmt: skip
                (grad,) = torch.autograd.grad(found, x, [weight.to(found[0]) for weight in weights])
                for one, other in zip((*found, grad), (*expected, expected_grad), strict=True):
                    error = (one.detach().cpu() - other.detach()).abs().max() / other.detach().abs().max()
                    worst = max(worst, float(error.nan_to_num(torch.inf)))
    return worst


def _plain(
    rows: Tensor, ids: Tensor, scale: float, views: int, local: slice | None, positives: str
) -> tuple[Tensor, Tensor]:
    """Compute the results of :func:`fused_contrast` from whole matrices."""
    anchors = torch.arange(len(ids), device=ids.device).view(views, -1)[:, local or slice(None)].flatten()
    others = torch.arange(len(ids), device=ids.device) != anchors[:, None]
    same = others & (ids == ids[anchors][:, None])
    scores = scale * rows[:, anchors] @ rows.mT
    log_all, log_positive = (scores.masked_fill(~mask, -torch.inf).logsumexp(2) for mask in (others, same))
    return log_all, log_positive if positives == 'in' else scores.masked_fill(~same, 0).sum(2)
