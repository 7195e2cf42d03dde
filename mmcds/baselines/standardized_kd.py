"""KD on standardised logits: the student need not have the teacher's range of logits, but their relations."""

from collections.abc import Sequence

from torch import Tensor

from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.methods import LogitDistillation, kl_divergence


@exact
def standardize(logits: Tensor) -> Tensor:
    """Bring every row (N, K) to mean 0 and sample standard deviation 1; equal logits become 0.

    References:
        https://arxiv.org/abs/2403.01427
    """
    variance = logits.var(1, keepdim=True).clamp(min=1e-14)  # the root has no slope at 0
    return (logits - logits.mean(1, keepdim=True)) / (variance.sqrt() + 1e-7)


@MODELS.register
class StandardizedKDSupervision(LogitDistillation):
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
        super().__init__(temperature=temperature, scale_by_temperature=True, views=views, loss_weight=loss_weight)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_logit``."""
        student, teacher = map(standardize, self.logits(outputs))
        return {'loss_logit': self.loss_weight * kl_divergence(student, teacher, self.temperature)}
