"""AT, attention transfer: where the student looks, the teacher looks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision

MODES = ('squared', 'norm')


def attention(features: Tensor, power: float = 2.0) -> Tensor:
    """Return the mean over channels of ``|F| ** power``, as a row of unit length; a map of zeros gives zeros.

    Args:
        features: (N, C, H, W).
        power: p.

    Returns:
        (N, H * W).
    """
    return F.normalize(features.abs().pow(power).mean(1).flatten(1), dim=1, eps=1e-8)


@exact
def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0, mode: str = 'squared') -> Tensor:
    r"""Return the difference of two attention maps Q of unit length.

    ``'squared'``: :math:`\operatorname{mean}_{n,hw} (Q_s - Q_t)^2`, as all common code bases, the authors' among them,
    have it. ``'norm'``: :math:`\frac{1}{2} \operatorname{mean}_n \lVert Q_s - Q_t \rVert_2`, as the paper writes it.
    For one image the first is the square of the second times 4 / HW, so their weights differ by orders of magnitude.
    The larger map is average-pooled to the size of the smaller one; widths may differ.

    Args:
        student: (N, C_s, H_s, W_s).
        teacher: (N, C_t, H_t, W_t), no gradient.
        power: p of :func:`attention`.
        mode: One of the two.

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/1612.03928, Eq. 2
    """
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    student, teacher = (F.adaptive_avg_pool2d(maps, size) for maps in (student, teacher.detach()))
    difference = attention(student, power) - attention(teacher, power)
    if mode == 'squared':
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean() / 2


@MODELS.register
class ATSupervision(TeacherSupervision):
    r"""Attention maps of all stages follow the teacher's.

    .. math:: \beta \sum_j \operatorname{mean} \left( \frac{Q_s^j}{\lVert Q_s^j \rVert_2} - \frac{Q_t^j}{\lVert Q_t^j
        \rVert_2} \right)^2

    Args:
        taps: Stages of the student; all four of a ResNet, as in the authors' code for ImageNet.
        teacher_taps: Stages of the teacher that belong to them. Defaults to the same.
        loss_weight: beta; 1000 belongs to ``mode='squared'``.
        power: p.
        mode: See :func:`attention_loss`. The default is what every published number was made with.
        views: Views that take part.

    Raises:
        ConfigError: If weight, power, mode or taps are wrong.

    References:
        https://arxiv.org/abs/1612.03928
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (0, 1, 2, 3),
        teacher_taps: Sequence[Tap] | None = None,
        loss_weight: float = 1000.0,
        power: float = 2.0,
        mode: str = 'squared',
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views, taps, teacher_taps)
        self.check_taps()
        self.check_positive(power=power)
        self.check_choice('mode', mode, MODES)
        self.power, self.mode = power, mode

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_attention`` for every tap of the student."""
        return {
            f'{tap_name(tap)}.loss_attention': self.loss_weight
            * attention_loss(student, teacher, self.power, self.mode)
            for tap, (student, teacher) in zip(self.taps, self.pairs(outputs), strict=True)
        }
