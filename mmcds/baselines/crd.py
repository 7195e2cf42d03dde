"""CRD, contrastive representation distillation: an image's two features agree, against a memory of all others."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.distributed import from_first_rank, sum_over_ranks
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import check_all, exact, first_places, unit_rows
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision
from mmcds.core.taps import NetworkInfo
from mmcds.losses import gather_embeddings

POSITIVES = ('instance', 'class')
#: Bytes that the rows of the memory may take which are compared at a time.
CHUNK_BYTES = 2**28


@exact
def nce_loss(scores: Tensor, log_normaliser: Tensor, num_samples: int, eps: float = 1e-7) -> Tensor:
    r"""Return the noise-contrastive estimation of one positive among K negatives.

    With :math:`P = e^{s} / Z` and :math:`c = K / n + \epsilon`,

    .. math:: -\frac{1}{N} \sum_b \Bigl[ \log \frac{P_{b0}}{P_{b0} + c}
        + \sum_{k \ge 1} \log \frac{K / n}{P_{bk} + c} \Bigr]

    evaluated from the logarithm of P, so that no exponential overflows.

    Args:
        scores: Inner products over the temperature, the positive first. (N, 1 + K).
        log_normaliser: Logarithm of Z. Scalar.
        num_samples: n, size of the memory.
        eps: As in the authors' code; it shifts the loss by about ``eps * n``.

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/1910.10699, Eq. 18; normaliser and eps from https://github.com/HobbitLong/RepDistiller
    """
    noise = (scores.shape[1] - 1) / num_samples
    odds = scores - log_normaliser - math.log(noise + eps)
    negative = F.softplus(odds[:, 1:]) + math.log((noise + eps) / noise)
    return (F.softplus(-odds[:, 0]) + negative.sum(1)).mean()


def _chunks(index: Tensor, width: int) -> Iterator[slice]:
    """Return the parts of the anchors whose rows of the memory fit into :data:`CHUNK_BYTES`."""
    size = max(1, CHUNK_BYTES // (4 * width * index.shape[1]))
    for start in range(0, len(index), size):
        yield slice(start, start + size)


def _scores(anchors: Tensor, memory: Tensor, index: Tensor, temperature: float) -> Tensor:
    return torch.einsum('nkd,nd->nk', memory[index], anchors) / temperature


@exact
def log_mean_exp(anchors: Tensor, memory: Tensor, index: Tensor, temperature: float) -> Tensor:
    """Return the logarithm of the mean exponential of all scores, and without gradient; arguments as below."""
    parts = [
        _scores(anchors[part], memory, index[part], temperature).logsumexp((0, 1))
        for part in _chunks(index, memory.shape[1])
    ]
    return torch.stack(parts).logsumexp(0) - math.log(index.numel())


@exact
def memory_loss(
    anchors: Tensor, memory: Tensor, index: Tensor, log_normaliser: Tensor, temperature: float, eps: float = 1e-7
) -> Tensor:
    """Compute :func:`nce_loss` against rows of a memory that may change later, in bounded memory.

    The gradient is computed here, part by part, so the rows that were gathered are not kept for the backward pass, and
    the memory can be updated before it. There is no second derivative.

    Args:
        anchors: Rows of unit length. (N, D).
        memory: (n, D), no gradient.
        index: Rows of the memory for every anchor, its positive first. (N, 1 + K).
        log_normaliser: See :func:`nce_loss`.
        temperature: tau.
        eps: See there.

    Returns:
        Scalar, at least float32.
    """
    value, gradient = anchors.new_zeros(()), torch.zeros_like(anchors)
    for part in _chunks(index, memory.shape[1]):
        with torch.enable_grad():
            leaf = anchors[part].detach().requires_grad_()
            scores = _scores(leaf, memory, index[part], temperature)
            loss = nce_loss(scores, log_normaliser, len(memory), eps) * (len(leaf) / len(anchors))
        (gradient[part],) = torch.autograd.grad(loss, leaf)
        value += loss.detach()
    return value + (gradient * (anchors - anchors.detach())).sum()  # the second term is 0 and carries the gradient


class NegativeSampler:
    """Draws negatives from the other classes, for all anchors at once.

    Without replacement, which needs at least K images of other classes, a random order of the data set is drawn per
    step and every anchor takes the first K images of other classes from a random place on: for each anchor any K of
    them are equally likely. With replacement each one is drawn on its own.

    Args:
        labels: Class of every image of the training set, >= 0. (n,).
        number: K.
        replace: Draw with replacement; by default only where there are fewer than K.

    Raises:
        ConfigError: If K are to be drawn without replacement, but there are fewer.
    """

    def __init__(self, labels: Tensor, number: int, replace: bool | None = None) -> None:
        self.labels, self.number = labels, number
        self.order = labels.argsort(stable=True)
        self.counts = labels.bincount()
        self.starts = self.counts.cumsum(0) - self.counts
        largest = int(self.counts.max())
        others = len(labels) - largest
        if replace is False and others < number:
            raise ConfigError(
                f'CRDSupervision: num_negatives is {number}, but only {others} images are of other classes than the '
                'largest one. Leave out replace=False, or lower num_negatives.'
            )
        self.replace = others < number if replace is None else replace
        self.window = number + largest

    def to(self, device: torch.device) -> 'NegativeSampler':
        """Move the tables."""
        if self.labels.device != device:
            for name in ('labels', 'order', 'counts', 'starts'):
                setattr(self, name, getattr(self, name).to(device))
        return self

    def negatives(self, anchors: Tensor) -> Tensor:
        """Return images (N, K) of other classes than those of the images ``anchors`` (N,)."""
        # With replacement: number the images by class, draw a place among those of the other classes, and step over
        # the anchor's own class, which is one run of numbers.
        # Without: look at a window of one random order that is long enough to hold K images of other classes whatever
        # the anchor's class is, and take the first K of them.
        own, total, device = self.labels[anchors], len(self.labels), anchors.device
        if self.replace:
            size = (len(anchors), self.number)
            places = (
                torch.rand(size, device=device, dtype=torch.float64) * (total - self.counts[own])[:, None]
            ).long()
            return self.order[places + (places >= self.starts[own][:, None]) * self.counts[own][:, None]]
        shuffled = torch.randperm(total, device=device)
        first = torch.randint(total, (len(anchors), 1), device=device)
        found = shuffled[(first + torch.arange(self.window, device=device)) % total]
        other = self.labels[found] != own[:, None]
        rank = torch.where(other, other.cumsum(1) - 1, self.number).clamp(max=self.number)  # what is left over is last
        chosen = found.new_empty(len(anchors), self.number + 1).scatter_(1, rank, found)
        return chosen[:, : self.number]

    def same_class(self, anchors: Tensor) -> Tensor:
        """Return an image (N,) of the same class as each of the images ``anchors`` (N,), maybe itself."""
        own = self.labels[anchors]
        places = (torch.rand(len(anchors), device=anchors.device, dtype=torch.float64) * self.counts[own]).long()
        return self.order[self.starts[own] + places]


@MODELS.register
class CRDSupervision(TeacherSupervision):
    r"""Student and teacher embed the same image alike, and other images differently.

    .. math:: \beta \bigl( L_{NCE}(u, M_t) + L_{NCE}(v, M_s) \bigr)

    with u and v the embeddings of student and teacher, of unit length, and M_s, M_t memories of those of the whole
    training set, which follow with a momentum. The normalisers are estimated from the first batch and then fixed, as
    in the authors' code. Both embeddings are trained.

    Memories and normalisers are part of the checkpoint, so a resumed run goes on as if never stopped. Every rank has
    the memory of the whole data set: embeddings of all ranks are gathered, and each rank makes the same update. The
    positives and negatives of an anchor come from this global memory, the mean over anchors is that of a rank.

    Args:
        loss_weight: beta.
        num_negatives: K.
        temperature: tau.
        momentum: Share of a memory's row that stays when its image is seen.
        out_channels: D, width of the embeddings.
        positives: ``'instance'``, the image itself; ``'class'``, a random image of its class ("relax" in the
            authors' code).
        replace: Draw negatives with replacement. By default only if the other classes have fewer than K images;
            the authors do it on ImageNet.
        views: The view that takes part.

    Raises:
        ConfigError: If a value is out of range; before training, if the data set gives no unique index or an image
            has no label; in training, if an index lies beyond the memory.

    References:
        https://arxiv.org/abs/1910.10699
    """

    needs_sample_idx = True
    student_memory: Tensor
    teacher_memory: Tensor
    log_normalisers: Tensor

    def __init__(
        self,
        loss_weight: float = 0.8,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        out_channels: int = 128,
        positives: str = 'instance',
        replace: bool | None = None,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views)
        self.check_positive(num_negatives=num_negatives, temperature=temperature, out_channels=out_channels)
        if not 0 <= momentum < 1:
            raise ConfigError(f'CRDSupervision: momentum is {momentum}; it must lie in [0, 1).')
        if positives not in POSITIVES:
            raise ConfigError(f'CRDSupervision: positives is {positives!r}; choose one of {", ".join(POSITIVES)}.')
        if len(views) != 1:
            raise ConfigError(f'CRDSupervision: views is {tuple(views)}; the memory has one row per image, name one.')
        self.num_negatives, self.temperature, self.momentum = num_negatives, temperature, momentum
        self.out_channels, self.positives, self.replace = out_channels, positives, replace
        self.sampler: NegativeSampler | None = None
        for name in ('student_memory', 'teacher_memory'):
            self.register_buffer(name, torch.empty(0, out_channels))
        self.register_buffer('log_normalisers', torch.full((2,), math.nan))  # of student and teacher anchors
        self._known_version = -1  # of the normalisers when they were last looked at

    def build(self, network: NetworkInfo) -> None:
        """Build the two embeddings."""
        assert network.teacher is not None
        self.student_embedding = nn.Linear(network.pooled_channels, self.out_channels)
        self.teacher_embedding = nn.Linear(network.teacher.pooled_channels, self.out_channels)

    def prepare(self, labels: Tensor) -> None:
        """Fill the memories with random rows, alike on all ranks, and sort the images by class.

        Memories of as many images, from a checkpoint, are kept.
        """
        if len(labels) and int(labels.min()) < 0:
            raise ConfigError(
                f'CRDSupervision: {int((labels < 0).sum())} of {len(labels)} training images have no label, but '
                'negatives are drawn from other classes. Train on labelled images only.'
            )
        if len(labels.unique()) < 2:
            raise ConfigError(
                'CRDSupervision: all training images are of one class, so there are no negatives. Use more classes.'
            )
        device = self.student_memory.device
        self.sampler = NegativeSampler(labels.to(device), self.num_negatives, self.replace)
        bound = 1 / math.sqrt(self.out_channels / 3)  # rows of length 1 on average
        if len(self.student_memory) == len(labels):
            return
        for name in ('student_memory', 'teacher_memory'):
            rows = torch.empty(len(labels), self.out_channels, device=device).uniform_(-bound, bound)
            setattr(self, name, from_first_rank(rows))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Take memories of any size where there is none yet, such as for a test."""
        for name in ('student_memory', 'teacher_memory'):
            found = state_dict.get(prefix + name)
            if found is not None and not len(getattr(self, name)):
                setattr(self, name, torch.empty_like(found, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_student`` and ``loss_teacher``, the two sides; in training mode, update the memories."""
        if self.sampler is None:
            raise ConfigError(
                'CRDSupervision: it does not know the training set. Keep PrepareSupervisionsHook in default_hooks, or '
                'call prepare(labels) before the first step.'
            )
        assert outputs.sample_idx is not None
        anchors, memories = outputs.sample_idx, (self.student_memory, self.teacher_memory)
        check_all(
            anchors < len(memories[0]),
            f'CRDSupervision: a sample_idx lies beyond the memory of {len(memories[0])} images. Train on the data set '
            'for which it was prepared.',
        )
        sampler = self.sampler.to(anchors.device)
        student, teacher = self.pooled(outputs)
        embedded = [unit_rows(self.student_embedding(student)), unit_rows(self.teacher_embedding(teacher))]
        first = anchors if self.positives == 'instance' else sampler.same_class(anchors)
        index = torch.cat([first[:, None], sampler.negatives(anchors)], 1)
        losses = {}
        missing = False
        if self.log_normalisers._version != self._known_version:  # a GPU is waited for once, not in every step
            missing = bool(self.log_normalisers.isnan().any())
        normalisers = self.log_normalisers if self.training else self.log_normalisers.clone()
        for side, name in enumerate(('student', 'teacher')):
            against = memories[1 - side]
            if missing:
                normalisers[side] = self._normaliser(embedded[side].detach(), against, index)
            losses[f'loss_{name}'] = self.loss_weight * memory_loss(
                embedded[side], against, index, normalisers[side], self.temperature
            )
        if self.training:
            self._known_version = self.log_normalisers._version
            self._update(torch.stack(embedded).detach(), anchors)
        return losses

    def _normaliser(self, anchors: Tensor, memory: Tensor, index: Tensor) -> Tensor:
        """Return the logarithm of n times the mean exponential of the scores of all ranks."""
        mean = log_mean_exp(anchors, memory, index, self.temperature).exp()
        total = sum_over_ranks(mean * len(anchors))
        count = sum_over_ranks(mean.new_tensor(float(len(anchors))))
        return (total / count).log() + math.log(len(memory))

    @torch.no_grad()
    def _update(self, embedded: Tensor, anchors: Tensor) -> None:
        """Move the memories' rows of the images of all ranks towards their embeddings (2, N, D)."""
        whole = gather_embeddings(embedded, anchors)
        assert whole.labels is not None
        rows, seen = whole.labels, first_places(whole.labels)  # an image that comes twice counts as it came first
        for memory, new in zip((self.student_memory, self.teacher_memory), whole.embeddings, strict=True):
            mixed = self.momentum * memory[rows] + (1 - self.momentum) * new[seen]
            memory[rows] = unit_rows(mixed).to(memory.dtype)
