"""The gather across ranks: local embeddings become the global set, with gradient, by one collective each way.

Steps of :func:`gather_embeddings`:

1. Every rank packs a header (:class:`Header`: its V, N, D, type and whether it has labels), labels and rows into
   one buffer of bytes, whose size is the same on all ranks, and all ranks receive the buffers of all.
2. They compare the headers, so that a misfit is one error on every rank instead of a hang, and cut the rows out.
   Ranks may hold different numbers of images.
3. In the backward pass every rank holds a gradient for the rows of all ranks; they are summed over the ranks, and
   each takes back the part that belongs to its own rows.

The size of the buffers, and what happens when something else is brought than before (:func:`exchange`)::

    room = 0 at first, and at any time the same number on all ranks
    loop:  send the header, and the payload if it fits in the room; receive those of all ranks
           on a GPU, if this rank has brought the same before: take the headers that came with it then, check on
               the device that they are the same again, and be done without reading
           read all headers: any misfit -> every rank raises the same error
           the largest payload fits -> done; otherwise room = its size, on every rank, and once more

What a rank sends first depends on the room only, never on its batch, so that no rank waits for another in vain.
Where one brings something new and another goes on without reading, both stop: the latter by its check on the
device, the former because the header of the latter says so.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable

from mmcds.core.distributed import num_ranks
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import check_all

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


class Header(NamedTuple):
    """What a rank says of its tensors; -1 stands for what cannot be said.

    Attributes:
        views: V.
        images: Its N.
        width: D.
        dtype: Place of the type of the rows in a list.
        labels: Number of labels, -1 without, -2 if they are not integers (N,).
        size: Bytes of what it sends beside the header.
        trusts: 1 if it goes on without reading the headers of the others.
    """

    views: int
    images: int
    width: int
    dtype: int
    labels: int
    size: int
    trusts: int = 0

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor | None, size: int) -> 'Header':
        """Describe tensors of any shape."""
        views, images, width = embeddings.shape if embeddings.ndim == 3 else (-1, -1, -1)
        dtype = _DTYPES.index(embeddings.dtype) if embeddings.dtype in _DTYPES else -1
        number = -1
        if labels is not None:
            number = len(labels) if labels.ndim == 1 and not labels.is_floating_point() else -2
        return cls(views, images, width, dtype, number, size)

    def fits(self, other: 'Header') -> bool:
        """Return whether both ranks can be put together."""
        same = (self.views, self.width, self.dtype) == (other.views, other.width, other.dtype)
        return same and (self.labels == -1) == (other.labels == -1)

    def is_complete(self) -> bool:
        """Return whether these are embeddings (V, N, D), with one label per image if there are labels."""
        return min(self[:4]) >= 0 and self.labels in (-1, self.images)

    def __str__(self) -> str:
        dtype = _DTYPES[self.dtype] if self.dtype >= 0 else 'other'
        labels = {-1: None, -2: 'other'}.get(self.labels, self.labels)
        return f'V={self.views}, N={self.images}, D={self.width}, type={dtype}, labels={labels}'


_HEADER_BYTES = 8 * len(Header._fields)


@dataclass
class _Agreement:
    """What the ranks of a process group have agreed on.

    Attributes:
        room: Bytes beside the header that every rank sends.
        known: For what this rank has brought before, the headers of all ranks, also on the device.
    """

    room: int = 0
    known: dict[Header, tuple[list[Header], Tensor]] = field(default_factory=dict)


_agreements: WeakKeyDictionary[Any, _Agreement] = WeakKeyDictionary()  # by process group


def packed_size(layout: Sequence[tuple[Sequence[int], torch.dtype]]) -> int:
    """Return how many bytes tensors of these shapes and types take, each filled up to a multiple of 8."""
    return sum(-(-math.prod(shape) * dtype.itemsize // 8) * 8 for shape, dtype in layout)


def unpack(buffer: Tensor, layout: Sequence[tuple[Sequence[int], torch.dtype]]) -> list[Tensor]:
    """Return tensors of these shapes and types, one after the other, as views of a buffer of bytes."""
    found, start = [], 0
    for shape, dtype in layout:
        part = buffer[start : start + math.prod(shape) * dtype.itemsize]
        found.append(part.view(dtype).view(tuple(shape)))
        start += packed_size([(shape, dtype)])
    return found


def pack(parts: Sequence[Tensor], size: int) -> Tensor:
    """Copy tensors one after the other into a new buffer of bytes, (size,); what is left over is undefined."""
    buffer = parts[0].new_empty(size, dtype=torch.uint8)
    for place, part in zip(unpack(buffer, [(part.shape, part.dtype) for part in parts]), parts, strict=True):
        place.copy_(part)
    return buffer


def _collective(*names: str) -> Callable:
    """Return the first of these functions that PyTorch has; 2.14 has given them new names."""
    return next(getattr(dist, name) for name in names if hasattr(dist, name))


def _all_gather(local: Tensor) -> Tensor:
    ranks = dist.get_world_size()
    whole = local.new_empty(ranks * len(local))
    _collective('all_gather_single', 'all_gather_into_tensor')(whole, local)
    return whole.view(ranks, -1)


def _host_reads(device: torch.device) -> bool:
    """Return whether the host looks at every header: not on a GPU, for which it would have to wait."""
    return device.type == 'cpu'


def _check_headers(name: str, headers: Sequence[Header]) -> None:
    described = '; '.join(f'rank {rank}: {header}' for rank, header in enumerate(headers))
    if not all(header.is_complete() and header.fits(headers[0]) for header in headers):
        raise ConfigError(
            f'{name}: every rank must bring embeddings (V, N, D) of the same V, D and '
            f'floating-point type, and either all or none integer labels, one per image; got {described}. Correct '
            'the batches, or set gather=False.'
        )
    if any(header.trusts for header in headers):
        raise ConfigError(
            f'{name}: this rank brings other sizes than before and the others do not, which a GPU refuses; got '
            f'{described}. Set drop_last=True in the data loader, or set gather=False.'
        )


def exchange(
    name: str, embeddings: Tensor, labels: Tensor | None, payload: Sequence[Tensor] = ()
) -> tuple[list[Header], Tensor]:
    """Send a header and a payload to all ranks, by one collective once their sizes are known; see the module.

    Args:
        name: Of the function, for its errors.
        embeddings: What the header describes. (V, n, D).
        labels: The same. (n,).
        payload: Tensors that are sent, see :func:`pack`.

    Returns:
        The headers of all ranks, and what they have packed, (R, bytes), uint8.

    Raises:
        ConfigError: On every rank, if the headers do not fit together. On a GPU, an error of the device, if they
            are not those that came with this rank's header when it first was sent.
    """
    agreement = _agreements.setdefault(dist.group.WORLD, _Agreement())
    header = Header.of(embeddings, labels, packed_size([(part.shape, part.dtype) for part in payload]))
    reads, device = _host_reads(embeddings.device), embeddings.device
    known = None if reads else agreement.known.get(header)
    mine = torch.tensor(header, device=device) if known is None else known[1][dist.get_rank()]
    while True:
        fitting = payload if header.size <= agreement.room else ()
        received = _all_gather(pack((mine, *fitting), _HEADER_BYTES + agreement.room))
        brought, content = received[:, :_HEADER_BYTES].view(torch.int64), received[:, _HEADER_BYTES:]
        if known is not None:
            check_all(
                brought == known[1],
                f'{name}: a rank brings other sizes than those that came with {header} before, which a GPU '
                'refuses. Set drop_last=True in the data loader, or set gather=False.',
            )
            return known[0], content
        headers = [Header(*row) for row in brought.tolist()]
        _check_headers(name, headers)
        largest = max(other.size for other in headers)
        if largest <= agreement.room:
            if not reads:
                trusting = torch.tensor([other._replace(trusts=1) for other in headers], device=device)
                agreement.known[header] = headers, trusting
            return headers, content
        agreement.room = largest


class _Gather(torch.autograd.Function):
    """Put the rows of all ranks side by side; the gradients of all ranks go back to the owner, summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None, list[int]]:
        sent = None if labels is None else labels.to(rows.device, torch.int64)
        headers, content = exchange('gather_embeddings', rows, labels, (rows,) if sent is None else (sent, rows))
        ctx.counts = counts = [header.images for header in headers]
        views, _, width = rows.shape
        parts = [
            unpack(packed, [((0 if labels is None else count,), torch.int64), ((views, count, width), rows.dtype)])
            for packed, count in zip(content, counts, strict=True)
        ]
        whole = None if labels is None else torch.cat([part[0] for part in parts])
        return torch.cat([part[1] for part in parts], 1), whole, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, None]:
        largest = max(ctx.counts)
        by_rank = grad.new_zeros(len(ctx.counts), len(grad), largest, grad.shape[2])
        for place, part in zip(by_rank, grad.split(ctx.counts, 1), strict=True):
            place[:, : part.shape[1]] = part
        own = torch.empty_like(by_rank[0])
        _collective('reduce_scatter_single', 'reduce_scatter_tensor')(own, by_rank.flatten(0, 1))
        return own[:, : ctx.counts[dist.get_rank()]], None


def gather_embeddings(embeddings: Tensor, labels: Tensor | None = None) -> Gathered:
    r"""Collect embeddings and labels of all ranks.

    Give the result to a loss with ``local`` and ``num_ranks``: each rank then compares its own anchors with the
    images of all ranks, and the mean over ranks of loss and gradient, which DDP takes, is exactly that of one
    process with the whole batch::

                      images of all ranks (view-major, each view in the order of the ranks)
                      view 0: rank 0 | rank 1     view 1: rank 0 | rank 1
        rank 1  view 0          ..     own                ..      +          + positive by image
                view 1          ..      +                 ..     own

    Ranks may hold different numbers of images, which on a CPU may change from call to call. A GPU is waited for
    only when this rank brings sizes that it has not brought before; the others must then bring new ones too, and
    the same ones as then whenever they come again, as with ``drop_last=True``. Without a process group, or with
    one rank, nothing is sent.

    Args:
        embeddings: This rank's rows. (V, n, D).
        labels: This rank's labels, -1 = unlabelled. (n,), integer.

    Returns:
        The global set; labels that were sent are int64.

    Raises:
        ConfigError: On every rank, if the ranks differ in V, D or type, if only some have labels, or if labels do
            not fit the embeddings; if sizes change on a GPU as they may not, as an error of the device where
            it does not wait.
    """
    if num_ranks() == 1:
        return Gathered(embeddings, labels, slice(0, embeddings.shape[1]), 1)
    return _gather(embeddings, labels)


@_disable_dynamo  # as torch.compiler.disable, without importing the compiler
def _gather(embeddings: Tensor, labels: Tensor | None) -> Gathered:
    whole, whole_labels, counts = _Gather.apply(embeddings, labels)
    start = sum(counts[: dist.get_rank()])
    return Gathered(whole, whole_labels, slice(start, start + embeddings.shape[1]), len(counts))
