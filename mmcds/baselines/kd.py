"""KD, knowledge distillation: the student's softened classes follow the teacher's."""

from collections.abc import Sequence

from mmcds.core.registry import MODELS
from mmcds.methods import LogitDistillation


@MODELS.register
class KDSupervision(LogitDistillation):
    r"""Hinton's distillation.

    .. math:: \alpha \, T^2 \, KL\bigl(\operatorname{softmax}(z_t / T) \Vert \operatorname{softmax}(z_s / T)\bigr)

    The total is :math:`\gamma L_{CE}` plus this; gamma is ``head.loss.loss_weight``. The distillation literature has
    gamma 0.1, alpha 0.9, T 4 on CIFAR, and 0.5, 0.5, T 1 on ImageNet. It differs from what the released code of CDS
    does with logits (:class:`mmcds.methods.LogitDistillation`) in the factor T^2 and in the constant of the
    divergence.

    Args:
        temperature: T.
        loss_weight: alpha.
        views: Views that take part, averaged.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/1503.02531
    """

    def __init__(self, temperature: float = 4.0, loss_weight: float = 0.9, views: Sequence[int] = (0,)) -> None:
        super().__init__(
            temperature=temperature, mode='kl', scale_by_temperature=True, views=views, loss_weight=loss_weight
        )
