"""DSN, deeply-supervised nets: the task's own loss on intermediate stages, Equation 2 of the paper."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from mmcds.baselines.auxiliary import AuxiliarySupervision
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import cross_entropy
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS

DECAYS = ('none', 'linear')


def dsn_losses(logits: Sequence[Tensor], labels: Tensor, threshold: float = 0.0) -> list[Tensor]:
    r"""Return the companion losses :math:`[L_{CE}(c_i) - \gamma]_+` of the auxiliary classifiers.

    Args:
        logits: Class scores of every auxiliary classifier, each (N, K).
        labels: Class of every row, -1 where it is unlabelled. (N,).
        threshold: gamma; a classifier whose loss is below it is left alone. 0 is Equation 2.

    Returns:
        One scalar per classifier, at least float32.

    References:
        https://arxiv.org/abs/1409.5185 (Eq. 3, there with a squared hinge loss) and
        https://arxiv.org/abs/2207.05306 (Eq. 2).
    """
    return [(cross_entropy(scores, labels) - threshold).clamp(min=0) for scores in logits]


@MODELS.register
class DSNSupervision(AuxiliarySupervision):
    r"""Cross-entropy of an auxiliary classifier on every tapped stage.

    .. math:: \alpha \sum_{i<K} L_{CE}\bigl(c_i(x), y\bigr) \qquad \text{(Eq. 2, second term)}

    The CDS paper states neither alpha nor the form of its classifiers. ``loss_weight`` 1 is the plain sum that
    later papers call deep supervision; the trunk is that of the CDS head, so that contrast against task loss is
    all that differs. The paper of 2015 has a squared hinge loss on the pooled hidden feature (``trunk='pool'``),
    a threshold, and a weight that vanishes during training.

    Args:
        taps: Stages with a classifier.
        loss_weight: alpha.
        decay: ``'none'``, or ``'linear'``: the weight falls to 0 at the end of the run.
        threshold: See :func:`dsn_losses`.
        trunk: See :class:`mmcds.baselines.auxiliary.AuxiliaryClassifiers`.
        blocks: See there.
        widen: See there.
        views: Views that the classifiers see.

    Raises:
        ConfigError: If ``loss_weight`` or ``threshold`` is negative, or a name is unknown.
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (0, 1, 2),
        loss_weight: float = 1.0,
        decay: str = 'none',
        threshold: float = 0.0,
        trunk: str = 'sepconv',
        blocks: Mapping[Tap, Sequence[int]] | None = None,
        widen: int = 1,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(taps, trunk, blocks, widen, views)
        if loss_weight < 0 or threshold < 0:
            raise ConfigError(
                f'DSNSupervision: loss_weight is {loss_weight} and threshold {threshold}; neither may be negative.'
            )
        if decay not in DECAYS:
            raise ConfigError(f'DSNSupervision: decay is {decay!r}; choose one of {", ".join(DECAYS)}.')
        self.loss_weight, self.decay, self.threshold = loss_weight, decay, threshold

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return the weighted ``<tap>.loss_ce`` and the accuracy of every classifier."""
        weight = self.loss_weight * (1 - outputs.progress if self.decay == 'linear' else 1)
        logits, labels = self.classify(outputs)
        losses = dsn_losses(logits, labels, self.threshold)
        values = self.accuracies(logits, labels)
        for tap, loss in zip(self.taps, losses, strict=True):
            values[f'{tap_name(tap)}.loss_ce'] = weight * loss
        return values
