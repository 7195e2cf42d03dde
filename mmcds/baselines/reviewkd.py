"""ReviewKD, knowledge review: every stage of the student, with all deeper ones, predicts that of the teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision
from mmcds.core.taps import NetworkInfo


@exact
def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the mean squared difference of two maps and of what is left of them at smaller sizes (HCL).

    .. math:: \frac{\sum_l 2^{-l} \operatorname{MSE}_l}{\sum_l 2^{-l}}

    Level 0 are the maps themselves; the further ones are their averages over 4 x 4, 2 x 2 and 1 x 1 fields, where
    the map is larger than that.

    Args:
        student: The student's fused map. (N, C, H, W).
        teacher: The teacher's map, no gradient. (N, C, H, W).

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/2104.09044, Section 3.4
    """
    difference = student - teacher.detach()
    total, weight, weights = difference.square().mean(), 1.0, 1.0
    for side in (4, 2, 1):
        if side < min(difference.shape[2:]):
            weight /= 2
            weights += weight
            total = total + weight * F.adaptive_avg_pool2d(difference, side).square().mean()  # averages are linear
    return total / weights


class Fusion(nn.Module):
    """Mixes a map with what comes from the deeper ones, place by place, and predicts the teacher's map (ABF).

    Args:
        channels: The student's width.
        middle: Width that all maps are brought to before they are mixed.
        expected: The teacher's width.
        deepest: Whether there is nothing deeper to mix with.
    """

    def __init__(self, channels: int, middle: int, expected: int, deepest: bool) -> None:
        super().__init__()
        first = nn.Conv2d(channels, middle, 1, bias=False)
        last = nn.Conv2d(middle, expected, 3, padding=1, bias=False)
        for conv in (first, last):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.reduce = nn.Sequential(first, nn.BatchNorm2d(middle))
        self.attend = None if deepest else nn.Conv2d(2 * middle, 2, 1)
        self.expand = nn.Sequential(last, nn.BatchNorm2d(expected))

    def forward(self, maps: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the prediction and the mixture.

        Args:
            maps: The student's map. (N, C_s, H, W).
            deeper: Mixture of the next deeper level, of any size, unless this is the deepest. (N, D, H', W').
            size: Height and width of the teacher's map.

        Returns:
            (N, C_t, *size) and (N, D, *size).
        """
        mixed = self.reduce(maps)
        if self.attend is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, mixed.shape[2:])
            own, other = self.attend(torch.cat([mixed, deeper], 1)).sigmoid().split(1, 1)
            mixed = own * mixed + other * deeper
        if mixed.shape[2:] != size:
            mixed = F.interpolate(mixed, size)
        return self.expand(mixed), mixed


@MODELS.register
class ReviewKDSupervision(TeacherSupervision):
    r"""Distillation via knowledge review.

    .. math:: \alpha \sum_s D\bigl(r_s(F_s, F_{s+1}, \ldots), T_s\bigr)

    D is :func:`context_loss`, r_s the fusion of a level with all deeper ones. Levels are the taps and, as the
    deepest one, the pooled feature. The weight grows from 0 over the first part of a run, as in the authors' code.
    Unlabelled images take part. The authors take the teacher's maps before the last ReLU of a stage; a stage
    number gives them after it.

    Args:
        taps: Stages of the student, from the shallowest to the deepest.
        teacher_taps: Stages of the teacher that belong to them. Defaults to the same.
        loss_weight: alpha. The authors have 5 for their wider networks for CIFAR, 8 for ShuffleNetV2, 1 for
            ResNet-32 and 0.6 for ResNet-20.
        warmup: Share of the run until the weight is whole, 0 for all of it; 20 of 240 epochs there.
        mid_channels: Width that all levels are mixed in, at most that of the student's last stage; 512 there, and
            256 for MobileNet on ImageNet.
        views: Views that take part; several make one larger batch.

    Raises:
        ConfigError: If a value is out of range or the taps are wrong.

    References:
        https://arxiv.org/abs/2104.09044
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (0, 1, 2, 3),
        teacher_taps: Sequence[Tap] | None = None,
        loss_weight: float = 5.0,
        warmup: float = 20 / 240,
        mid_channels: int = 512,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views, taps, teacher_taps)
        self.check_taps()
        self.check_positive(mid_channels=mid_channels)
        if not 0 <= warmup <= 1:
            raise ConfigError(f'ReviewKDSupervision: warmup is {warmup}; give a share of the run, from 0 to 1.')
        self.warmup, self.mid_channels = warmup, mid_channels

    def build(self, network: NetworkInfo) -> None:
        """Build a fusion per tap, and one for the pooled feature."""
        assert network.teacher is not None
        middle = min(self.mid_channels, network.final.channels)
        self.fusions = nn.ModuleDict()
        for own, other in zip(self.taps, self.teacher_taps, strict=True):
            widths = network.taps[own].channels, middle, network.teacher.taps[other].channels
            self.fusions[tap_name(own)] = Fusion(*widths, deepest=False)
        widths = network.pooled_channels, middle, network.teacher.pooled_channels
        self.fusions['pooled'] = Fusion(*widths, deepest=True)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_review`` for every tap of the student, and ``pooled.loss_review``."""
        grown = min(1.0, outputs.progress / self.warmup) if self.warmup else 1.0
        student, teacher = (rows[:, :, None, None] for rows in self.pooled(outputs))
        levels = zip(self.fusions.items(), [*self.pairs(outputs), (student, teacher)], strict=True)
        losses, mixed = {}, None
        for (name, fusion), (student, teacher) in reversed(list(levels)):
            predicted, mixed = fusion(student, mixed, teacher.shape[2:])
            losses[f'{name}.loss_review'] = self.loss_weight * grown * context_loss(predicted, teacher)
        return losses
