"""KD on standardised logits: the student need not have the teacher's range of logits, but their relations."""

from collections.abc import Sequence

from torch import Tensor

from mmcds.baselines.kd import KDSupervision
from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS


@exact
def standardize(logits: Tensor) -> Tensor:
    """Bring every row (N, K) to mean 0 and sample standard deviation 1; equal logits become 0.

    References:
        https://arxiv.org/abs/2403.01427
    """
    variance = logits.var(1, keepdim=True).clamp(min=1e-14)  # the root has no slope at 0
    return (logits - logits.mean(1, keepdim=True)) / (variance.sqrt() + 1e-7)


@MODELS.register
class StandardizedKDSupervision(KDSupervision):
    r"""Hinton's distillation of standardised logits.

    .. math:: \alpha \, T^2 \, KL\bigl(\sigma(\hat z_t / T) \Vert \sigma(\hat z_s / T)\bigr)

    Sigma is the softmax.

    Args:
        temperature: T; 2 in the authors' code ("base temperature").
        loss_weight: alpha; 9 there, beside 0.1 times the cross-entropy.
        views: Views that take part, averaged.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/2403.01427
    """

    def __init__(self, temperature: float = 2.0, loss_weight: float = 9.0, views: Sequence[int] = (0,)) -> None:
        super().__init__(temperature, loss_weight, views)

    def logits(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """Return the standardised logits of student and teacher, of the views that take part. (V * N, K) each."""
        student, teacher = map(standardize, super().logits(outputs))
        return student, teacher
