"""RKD, relational knowledge distillation: distances and angles between images follow the teacher's."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact, unit_rows
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision

#: Squared distance of two rows that are one point, as in the authors' code.
TINY = 1e-12


def _products(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return inner products of centred rows and squared distances, both (N, N), float64.

    Distances are differences of inner products: in float32 those of close rows would be rounding and little else.
    """
    rows = rows.double()
    rows = rows - rows.mean(0)
    products = rows @ rows.T
    lengths = products.diagonal()
    squares = lengths[:, None] + lengths[None] - 2 * products
    rounding = 1e-14 * lengths.detach().amax()  # what two equal rows may give
    return products, squares.masked_fill(squares <= rounding, 0)


def distances(rows: Tensor) -> Tensor:
    """Return the Euclidean distances between rows (N, D), divided by their mean over all pairs. (N, N).

    Equal rows count as 1e-6 apart, without a gradient, as in the authors' code; a row and itself are 0 apart.
    """
    squares = _products(rows)[1]
    pairs = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    found = squares.clamp(min=TINY).sqrt() * pairs
    return (found / (found.sum() / pairs.sum().clamp(min=1)).clamp(min=TINY)).to(rows.dtype)


def angles(rows: Tensor) -> Tensor:
    """Return the cosine of the angle at row i between rows j and k of (N, D); 0 where two are one point. (N, N, N).

    From inner products, so that memory holds N^3 numbers and not N^2 D.
    """
    products, squares = _products(rows)
    apart = squares > TINY
    inverse = torch.where(apart, squares, 1).rsqrt() * apart
    inner = products[None] - products[:, :, None] - products[:, None] + products.diagonal()[:, None, None]
    return (inner * inverse[:, :, None] * inverse[:, None]).to(rows.dtype)


@exact
def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the smooth L1 between the normalised distances of student and teacher, mean over all N^2 pairs.

    Args:
        student: (N, D_s).
        teacher: (N, D_t), no gradient.

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/1904.05068, Eq. 6, there a sum; https://github.com/lenscloth/RKD takes the mean.
    """
    return F.smooth_l1_loss(distances(student), distances(teacher.detach()))


@exact
def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the smooth L1 between the angles of student and teacher, mean over all N^3 triplets; arguments as above.

    References:
        https://arxiv.org/abs/1904.05068, Eq. 8, there a sum; https://github.com/lenscloth/RKD takes the mean.
    """
    return F.smooth_l1_loss(angles(student), angles(teacher.detach()))


@MODELS.register
class RKDSupervision(TeacherSupervision):
    r"""Structure of a batch in feature space.

    .. math:: w_d \, L_D + w_a \, L_A

    The batch is that of a rank: with more ranks the loss is the mean over their parts, as in every code base. At least
    three images are needed for an angle; one image alone gives 0.

    Args:
        distance_weight: w_d; 0 leaves the term out.
        angle_weight: w_a; 0 leaves the term out.
        normalise: Compare features of unit length, as MMRazor does and the authors do not.
        views: Views that take part; several make one larger batch.

    Raises:
        ConfigError: If a weight is negative or both are 0.

    References:
        https://arxiv.org/abs/1904.05068
    """

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        normalise: bool = False,
        views: Sequence[int] = (0,),
    ) -> None:
        if min(distance_weight, angle_weight) < 0 or not distance_weight + angle_weight:
            raise ConfigError(
                f'RKDSupervision: distance_weight is {distance_weight} and angle_weight {angle_weight}; neither may '
                'be negative, nor both 0.'
            )
        super().__init__(1.0, views)
        self.weights = dict(distance=(distance_weight, distance_loss), angle=(angle_weight, angle_loss))
        self.normalise = normalise

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_distance`` and ``loss_angle``."""
        student, teacher = self.pooled(outputs)
        if self.normalise:
            student, teacher = unit_rows(student), unit_rows(teacher)
        return {
            f'loss_{name}': weight * function(student, teacher)
            for name, (weight, function) in self.weights.items()
            if weight
        }
