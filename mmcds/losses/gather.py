"""The gather across ranks: local embeddings become the global set, with gradient."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcds.errors import ConfigError

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Gathered:
    """The images of all ranks, in the order of the ranks.

    Attributes:
        embeddings: Rows of all images. (V, N, D) with N summed over the ranks.
        labels: Their labels, or None. (N,).
        weights: Their anchor weights, or None. (N,) or (V, N).
        local: Which images are this rank's own.
        num_ranks: R.
    """

    embeddings: Tensor
    labels: Tensor | None
    weights: Tensor | None
    local: slice
    num_ranks: int


class _AllGather(torch.autograd.Function):
    """Stack the tensors of all ranks; every rank's gradient goes back to the owner, where they are summed."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _all_gather(local)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def _all_gather(local: Tensor) -> Tensor:
    pieces = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, local)
    return torch.stack(pieces)


def _pad(values: Tensor, dim: int, size: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([values, values.new_zeros(shape)], dim).contiguous()


def gather_embeddings(embeddings: Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Gathered:
    r"""Collect embeddings, labels and weights of all ranks.

    Give the result to a loss with ``local`` and ``num_ranks``: each rank then compares its own anchors with the
    images of all ranks, and the mean over ranks of loss and gradient, which DDP takes, is exactly that of one
    process with the whole batch::

                      images of all ranks (view-major, each view in the order of the ranks)
                      view 0: rank 0 | rank 1     view 1: rank 0 | rank 1
        rank 1  view 0          ..     own                ..      +          + positive by image
                view 1          ..      +                 ..     own

    Ranks may hold different numbers of images. Without a process group, or with one rank, nothing is sent.

    Args:
        embeddings: This rank's rows. (V, n, D).
        labels: This rank's labels, -1 = unlabelled. (n,), integer.
        weights: This rank's anchor weights. (n,) or (V, n).

    Returns:
        The global set.

    Raises:
        ConfigError: On every rank, if the ranks differ in V, D or type, if only some have labels or weights, or
            if labels or weights do not fit the embeddings.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(embeddings, labels, weights, slice(0, embeddings.shape[1]), 1)
    views, images, width = embeddings.shape if embeddings.ndim == 3 else (-1, -1, -1)
    header = torch.tensor(
        [
            views,
            width,
            _DTYPES.index(embeddings.dtype) if embeddings.dtype in _DTYPES else -1,
            -1 if labels is None else labels.ndim,
            -1 if weights is None else weights.ndim,
            images,
            -1 if labels is None else len(labels),
            -1 if weights is None else weights.shape[-1],
        ],
        device=embeddings.device,
    )
    headers = _all_gather(header).tolist()
    counts = [row[5] for row in headers]
    fits = all(row[i] in (-1, row[5]) for row in headers for i in (6, 7))
    if any(row[:5] != headers[0][:5] for row in headers) or -1 in headers[0][:3] or not fits:
        described = '; '.join(
            f'rank {rank}: V={row[0]}, N={row[5]}, D={row[1]}, '
            f'type={_DTYPES[row[2]] if row[2] >= 0 else "other"}, labels={row[6] if row[3] >= 0 else None}, '
            f'weights={row[7] if row[4] >= 0 else None}'
            for rank, row in enumerate(headers)
        )
        raise ConfigError(
            'gather_embeddings: every rank must bring embeddings (V, N, D) of the same V, D and '
            'floating-point type, and either all or none labels and weights, one per image; got '
            f'{described}. Correct the batches, or set gather=False.'
        )
    largest, rank = max(counts), dist.get_rank()

    def join(stacked: Tensor, dim: int) -> Tensor:
        return torch.cat([piece.narrow(dim, 0, count) for piece, count in zip(stacked, counts, strict=True)], dim)

    start = sum(counts[:rank])
    return Gathered(
        embeddings=join(_AllGather.apply(_pad(embeddings, 1, largest)), 1),
        labels=None if labels is None else join(_all_gather(_pad(labels, 0, largest)), 0),
        weights=None
        if weights is None
        else join(_all_gather(_pad(weights, weights.ndim - 1, largest)), weights.ndim - 1),
        local=slice(start, start + counts[rank]),
        num_ranks=len(counts),
    )
