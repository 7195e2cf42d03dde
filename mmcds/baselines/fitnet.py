"""FitNet: hints from the middle of the teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision
from mmcds.core.taps import NetworkInfo

REDUCTIONS = ('mean', 'half-sum')


@exact
def hint_loss(student: Tensor, teacher: Tensor, reduction: str = 'mean') -> Tensor:
    r"""Return the squared difference of a regressed map and the teacher's.

    ``'mean'``: over all elements, as the common code bases have it. ``'half-sum'``: :math:`\frac{1}{2} \lVert u - r
    \rVert^2` per image, mean over images, as in the paper.

    Args:
        student: The student's map after the regressor. (N, C, H, W).
        teacher: The teacher's map, no gradient. (N, C, H, W).
        reduction: One of the two.

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/1412.6550, Eq. 3
    """
    square = (student - teacher.detach()).square()
    return square.mean() if reduction == 'mean' else square.flatten(1).sum(1).mean() / 2


class Regressor(nn.Module):
    """A convolution, BatchNorm and ReLU that bring the student's map to the teacher's width and size.

    The convolution is 1x1 for equal sizes, 3x3 with stride 2 where the student's map is twice as large and a
    transposed 4x4 where it is half as large; other ratios are first pooled or interpolated to the teacher's size.

    Args:
        channels: The student's width.
        expected: The teacher's width.
        ratio: Side of the student's map over side of the teacher's.
    """

    def __init__(self, channels: int, expected: int, ratio: float) -> None:
        super().__init__()
        if ratio == 2:
            self.conv: nn.Module = nn.Conv2d(channels, expected, 3, 2, 1)
        elif ratio == 0.5:
            self.conv = nn.ConvTranspose2d(channels, expected, 4, 2, 1)
        else:
            self.conv = nn.Conv2d(channels, expected, 1)
        self.norm = nn.BatchNorm2d(expected)

    def forward(self, student: Tensor, size: torch.Size) -> Tensor:
        """Map (N, C_s, H_s, W_s) to (N, C_t, *size)."""
        if self.conv.kernel_size == (1, 1) and student.shape[2:] != size:
            student = _resize(student, size)
        out = F.relu(self.norm(self.conv(student)))
        return out if out.shape[2:] == size else _resize(out, size)  # odd sizes


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    """Average where the map is too large, interpolate where it is too small."""
    if maps.shape[2] >= size[0] and maps.shape[3] >= size[1]:
        return F.adaptive_avg_pool2d(maps, (size[0], size[1]))
    return F.interpolate(maps, size, mode='bilinear', align_corners=False)


@MODELS.register
class FitNetSupervision(TeacherSupervision):
    r"""The student's middle stage predicts the teacher's.

    .. math:: \beta \, \lVert r(F_s) - F_t \rVert^2

    The common code bases train everything at once, with the mean of squares and beta 100, which is the default here.
    The paper has two stages, hints first and then distillation of logits: ``configs/fitnet/*-hint.py`` trains the
    hint alone (``head.loss.loss_weight=0``), and a KD config goes on from its checkpoint.

    Args:
        taps: Hinted stages of the student, the second one as in the common code bases.
        teacher_taps: Stages of the teacher that belong to them. Defaults to the same.
        loss_weight: beta.
        reduction: See :func:`hint_loss`.
        views: Views that take part.

    Raises:
        ConfigError: If weight, taps or reduction are wrong.

    References:
        https://arxiv.org/abs/1412.6550
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (1,),
        teacher_taps: Sequence[Tap] | None = None,
        loss_weight: float = 100.0,
        reduction: str = 'mean',
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views, taps, teacher_taps)
        self.check_taps()
        self.check_choice('reduction', reduction, REDUCTIONS)
        self.reduction = reduction

    def build(self, network: NetworkInfo) -> None:
        """Build a regressor per tap."""
        assert network.teacher is not None
        self.regressors = nn.ModuleDict()
        for own, other in zip(self.taps, self.teacher_taps, strict=True):
            student, teacher = network.taps[own], network.teacher.taps[other]
            self.regressors[tap_name(own)] = Regressor(
                student.channels, teacher.channels, teacher.stride / student.stride
            )

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_hint`` for every tap of the student."""
        losses = {}
        for tap, (student, teacher) in zip(self.taps, self.pairs(outputs), strict=True):
            name = tap_name(tap)
            regressed = self.regressors[name](student, teacher.shape[2:])
            losses[f'{name}.loss_hint'] = self.loss_weight * hint_loss(regressed, teacher, self.reduction)
        return losses
