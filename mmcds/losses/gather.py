"""The gather across ranks: local embeddings become the global set, with gradient.

Steps of :func:`gather_embeddings`:

1. Every rank sends a header (:class:`_Header`: its V, N, D, type and whether it has labels), and all ranks compare
   them, so that a misfit is one error on every rank instead of a hang.
2. Ranks may hold different numbers of images, so rows are padded with zeros to the largest number, sent with one
   collective, and cut again.
3. In the backward pass every rank holds a gradient for the rows of all ranks; they are summed over the ranks, and each
   takes back the part that belongs to its own rows.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmcds.core.errors import ConfigError

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Gathered:
    """The images of all ranks, in the order of the ranks.

    Attributes:
        embeddings: Rows of all images. (V, N, D) with N summed over the ranks.
        labels: Their labels, or None. (N,).
        local: Which images are this rank's own.
        num_ranks: R.
    """

    embeddings: Tensor
    labels: Tensor | None
    local: slice
    num_ranks: int


class _Header(NamedTuple):
    """What a rank says of its tensors before it sends them; -1 stands for what cannot be said."""

    views: int
    images: int
    width: int
    dtype: int
    labels: int

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor | None) -> '_Header':
        views, images, width = embeddings.shape if embeddings.ndim == 3 else (-1, -1, -1)
        dtype = _DTYPES.index(embeddings.dtype) if embeddings.dtype in _DTYPES else -1
        return cls(views, images, width, dtype, -1 if labels is None else len(labels))

    def fits(self, other: '_Header') -> bool:
        """Return whether both ranks can be put together."""
        same = (self.views, self.width, self.dtype) == (other.views, other.width, other.dtype)
        return same and (self.labels < 0) == (other.labels < 0)

    def is_complete(self) -> bool:
        """Return whether these are embeddings (V, N, D), with one label per image if there are labels."""
        return min(self[:4]) >= 0 and self.labels in (-1, self.images)

    def __str__(self) -> str:
        dtype = _DTYPES[self.dtype] if self.dtype >= 0 else 'other'
        labels = self.labels if self.labels >= 0 else None
        return f'V={self.views}, N={self.images}, D={self.width}, type={dtype}, labels={labels}'


class _AllGather(torch.autograd.Function):
    """Stack the tensors of all ranks; every rank's gradient goes back to the owner, where they are summed."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return _all_gather(local)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        own = torch.empty_like(grad[0])
        dist.reduce_scatter_tensor(own, grad.contiguous().flatten(0, 1))
        return own


def _all_gather(local: Tensor) -> Tensor:
    ranks = dist.get_world_size()
    whole = local.new_empty(ranks * len(local), *local.shape[1:])
    dist.all_gather_into_tensor(whole, local.contiguous())
    return whole.unflatten(0, (ranks, -1))


def _pad(values: Tensor, dim: int, size: int) -> Tensor:
    shape = list(values.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([values, values.new_zeros(shape)], dim).contiguous()


def _headers(embeddings: Tensor, labels: Tensor | None) -> list[_Header]:
    """Exchange the headers of all ranks and compare them."""
    mine = torch.tensor(_Header.of(embeddings, labels), device=embeddings.device)
    headers = [_Header(*row) for row in _all_gather(mine).tolist()]
    if not all(header.is_complete() and header.fits(headers[0]) for header in headers):
        described = '; '.join(f'rank {rank}: {header}' for rank, header in enumerate(headers))
        raise ConfigError(
            'gather_embeddings: every rank must bring embeddings (V, N, D) of the same V, D and '
            f'floating-point type, and either all or none labels, one per image; got {described}. Correct the '
            'batches, or set gather=False.'
        )
    return headers


def gather_embeddings(embeddings: Tensor, labels: Tensor | None = None) -> Gathered:
    r"""Collect embeddings and labels of all ranks.

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

    Returns:
        The global set.

    Raises:
        ConfigError: On every rank, if the ranks differ in V, D or type, if only some have labels, or if labels do
            not fit the embeddings.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(embeddings, labels, slice(0, embeddings.shape[1]), 1)
    counts = [header.images for header in _headers(embeddings, labels)]
    largest, rank = max(counts), dist.get_rank()

    def join(stacked: Tensor, dim: int) -> Tensor:
        return torch.cat([piece.narrow(dim, 0, count) for piece, count in zip(stacked, counts, strict=True)], dim)

    start = sum(counts[:rank])
    return Gathered(
        embeddings=join(_AllGather.apply(_pad(embeddings, 1, largest)), 1),
        labels=None if labels is None else join(_all_gather(_pad(labels, 0, largest)), 0),
        local=slice(start, start + counts[rank]),
        num_ranks=len(counts),
    )
