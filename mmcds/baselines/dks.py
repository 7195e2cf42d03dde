"""DKS, deeply-supervised knowledge synergy: all classifiers of a network teach each other, Equation 3."""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from mmcds.baselines.auxiliary import AuxiliarySupervision
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import cross_entropy
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS

DIRECTIONS = ('dense', 'top-down')


def smoothed_kl(student: Tensor, source: Tensor, temperature: float = 1.0, eps: float = 1e-8) -> Tensor:
    r""":math:`T^2 \, KL(\tilde p_{source} \Vert \tilde p_{student})`, mean over rows; the source gets no gradient.

    Both sides are smoothed as in the released code: :math:`\tilde p = (p + \epsilon) / (1 + K \epsilon)`.

    Args:
        student: Logits (N, K) that learn.
        source: Logits (N, K) that teach.
        temperature: T > 0.
        eps: Smoothing.

    Returns:
        Scalar, at least float32.

    References:
        https://github.com/sundw2014/DKS and https://github.com/d-li14/DHM.
    """
    student, source = (
        (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).softmax(1)
        for logits in (student, source.detach())
    )
    student, source = ((value + eps) / (1 + value.shape[1] * eps) for value in (student, source))
    return temperature**2 * (source * (source.log() - student.log())).sum(1).mean()


def ordered_pairs(number: int, direction: str) -> list[tuple[int, int]]:
    """Return (student, source) of every term among ``number`` classifiers, the last of which is the network's own.

    ``'dense'``: all ordered pairs, as released. ``'top-down'``: the network's own classifier teaches the others,
    as Equation 3 of the CDS paper writes it.
    """
    if direction == 'top-down':
        return [(student, number - 1) for student in range(number - 1)]
    return [(student, source) for student in range(number) for source in range(number) if source != student]


def synergy_loss(
    logits: Sequence[Tensor],
    direction: str = 'dense',
    temperature: float = 1.0,
    without_gradient: Collection[int] = (),
) -> Tensor:
    """Return the sum of :func:`smoothed_kl` over the pairs of :func:`ordered_pairs`.

    Args:
        logits: Class scores of every classifier, the network's own last; each (N, K).
        direction: ``'dense'`` or ``'top-down'``.
        temperature: T > 0.
        without_gradient: Numbers of pairs that count in the value but give no gradient.

    Returns:
        Scalar, at least float32.
    """
    terms = [
        smoothed_kl(
            logits[student].detach() if number in without_gradient else logits[student],
            logits[source],
            temperature,
        )
        for number, (student, source) in enumerate(ordered_pairs(len(logits), direction))
    ]
    return torch.stack(terms).sum()


@MODELS.register
class DKSSupervision(AuxiliarySupervision):
    r"""Auxiliary classifiers, and a Kullback-Leibler divergence between every two classifiers in both directions.

    .. math:: \alpha \sum_{i<K} L_{CE}\bigl(c_i(x), y\bigr) + \beta \sum_{j} \sum_{k \ne j} KL(p_k \Vert p_j)

    with p_k detached. Equation 3 of the CDS paper writes a part of it only, the network's own classifier teaching
    the K - 1 others; that is ``taps=(0, 1, 2), direction='top-down'``. All weights and the temperature are 1 in the
    released code, which has layouts for WRN-28-10 and no training script for ImageNet. The branches here are those
    of DHM's code, whose layout for wide ResNets is the same. DHM's code has layouts for the ImageNet ResNet-18, 34,
    50, 101 and 152, and ours equal those of 18 and 50; for the paper's networks on CIFAR none was released, so those
    are an assumption. By default nothing separates DKS from DHM: see :class:`mmcds.baselines.dhm.DHMSupervision`.

    Args:
        taps: Stages with a classifier.
        loss_weight: beta, of every divergence.
        ce_weight: alpha, of the auxiliary cross-entropy.
        direction: ``'dense'`` or ``'top-down'``.
        temperature: T; each divergence is multiplied by T^2.
        trunk: See :class:`mmcds.baselines.auxiliary.AuxiliaryClassifiers`.
        blocks: See there.
        widen: See there.
        views: Views that the classifiers see.

    Raises:
        ConfigError: If a weight is negative, the temperature is not positive, or a name is unknown.
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (1, 2),
        loss_weight: float = 1.0,
        ce_weight: float = 1.0,
        direction: str = 'dense',
        temperature: float = 1.0,
        trunk: str = 'branch',
        blocks: Mapping[Tap, Sequence[int]] | None = None,
        widen: int = 2,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(taps, trunk, blocks, widen, views)
        owner = type(self).__name__
        if loss_weight < 0 or ce_weight < 0:
            raise ConfigError(
                f'{owner}: loss_weight is {loss_weight} and ce_weight {ce_weight}; neither may be negative.'
            )
        self.check_positive(temperature=temperature)
        if direction not in DIRECTIONS:
            raise ConfigError(f'{owner}: direction is {direction!r}; choose one of {", ".join(DIRECTIONS)}.')
        self.loss_weight, self.ce_weight = loss_weight, ce_weight
        self.direction, self.temperature = direction, temperature

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_ce`` and the accuracy of every classifier, and ``loss_synergy``."""
        logits, labels = self.classify(outputs)
        values = self.accuracies(logits, labels)
        for tap, scores in zip(self.taps, logits, strict=True):
            values[f'{tap_name(tap)}.loss_ce'] = self.ce_weight * cross_entropy(scores, labels)
        values['loss_synergy'] = self.loss_weight * synergy_loss(
            [*logits, self.select(outputs.logits, outputs)],
            self.direction,
            self.temperature,
            self.without_gradient(),
        )
        return values

    def without_gradient(self) -> Collection[int]:
        """Return the pairs that give no gradient in this step: none in DKS."""
        return ()
