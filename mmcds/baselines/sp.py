"""SP, similarity-preserving distillation: pairs that are alike for the teacher are alike for the student."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mmcds.core.numerics import exact
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision


@exact
def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r""":math:`\lVert \tilde G_s - \tilde G_t \rVert_F^2 / N^2`, G the inner products of all images, rows of length 1.

    Args:
        student: Features (N, ...), flattened.
        teacher: Features (N, ...) of any other shape, no gradient.

    Returns:
        Scalar, at least float32; 0 for a single image.

    References:
        https://arxiv.org/abs/1907.09682, Eq. 4
    """

    def gram(features: Tensor) -> Tensor:
        rows = features.flatten(1)
        return F.normalize(rows @ rows.T, dim=1, eps=1e-8)

    return (gram(student) - gram(teacher.detach())).square().mean()


@MODELS.register
class SPSupervision(TeacherSupervision):
    r"""Similarities within a batch.

    .. math:: \gamma \sum_l \lVert \tilde G_s^l - \tilde G_t^l \rVert_F^2 / N^2

    The batch is that of a rank. The value depends on the number of images, so the weight belongs to a batch size.

    Args:
        taps: Stages of the student; the last one in the common code bases.
        teacher_taps: Stages of the teacher that belong to them. Defaults to the same.
        loss_weight: gamma.
        views: Views that take part; several make one larger batch.

    Raises:
        ConfigError: If weight or taps are wrong.

    References:
        https://arxiv.org/abs/1907.09682
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (3,),
        teacher_taps: Sequence[Tap] | None = None,
        loss_weight: float = 3000.0,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views, taps, teacher_taps)
        self.check_taps()

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_similarity`` for every tap of the student."""
        return {
            f'{tap_name(tap)}.loss_similarity': self.loss_weight * similarity_loss(student, teacher)
            for tap, (student, teacher) in zip(self.taps, self.pairs(outputs), strict=True)
        }
