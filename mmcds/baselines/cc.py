"""CC, correlation congruence: correlations between images follow the teacher's."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact, unit_rows
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision
from mmcds.core.taps import NetworkInfo

MODES = ('kernel', 'adjacent')


def gaussian_kernel(rows: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Return the Taylor expansion of the Gaussian kernel between rows of unit length.

    .. math:: K_{ij} = e^{-2 \gamma} \sum_{p=0}^{P} \frac{(2 \gamma)^p}{p!} (f_i \cdot f_j)^p

    Args:
        rows: (N, D), of unit length.
        gamma: Of the kernel :math:`e^{-\gamma \lVert f_i - f_j \rVert^2}`.
        order: P.

    Returns:
        (N, N).
    """
    cosines = rows @ rows.T
    terms = [(2 * gamma) ** p / math.factorial(p) * cosines**p for p in range(order + 1)]
    return math.exp(-2 * gamma) * torch.stack(terms).sum(0)


@exact
def kernel_loss(student: Tensor, teacher: Tensor, gamma: float = 0.4, order: int = 2) -> Tensor:
    r"""Return :math:`\lVert K_s - K_t \rVert_F^2 / N^2` of the kernels of :func:`gaussian_kernel`.

    Args:
        student: Embeddings (N, D), of any length.
        teacher: Embeddings (N, D'), of any length.
        gamma: See there.
        order: See there.

    Returns:
        Scalar, at least float32; 0 for a single image.

    References:
        https://arxiv.org/abs/1904.01802, Eq. 4 and 7
    """
    kernels = [gaussian_kernel(unit_rows(rows), gamma, order) for rows in (student, teacher)]
    return (kernels[0] - kernels[1]).square().mean()


@exact
def adjacent_loss(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Return the mean of :math:`\langle \delta_i, \delta_{i+1} \rangle` over rows, :math:`\delta = |f_s - f_t|`.

    This is what the most used benchmark code calls correlation congruence. It depends on the order of the batch.

    Args:
        student: Embeddings (N, D).
        teacher: Embeddings (N, D).

    Returns:
        Scalar, at least float32; 0 for a single image.

    References:
        https://github.com/HobbitLong/RepDistiller
    """
    delta = (student - teacher).abs()
    products = (delta[:-1] * delta[1:]).sum(1)
    return products.sum() / max(len(products), 1)


@MODELS.register
class CCSupervision(TeacherSupervision):
    r"""Correlations within a batch, between embeddings of the pooled features.

    .. math:: \beta \, \lVert K_s - K_t \rVert_F^2 / N^2

    The batch is that of a rank. The paper's kernel is the default; ``mode='adjacent'`` is the loss with which most
    published tables were made. If both embeddings are trained, mapping everything to one point gives a loss of 0, so
    by default the teacher's is a fixed random projection; the benchmark code trains both.

    Args:
        mode: ``'kernel'`` or ``'adjacent'``.
        loss_weight: beta. 0.02 is that of the benchmark code on CIFAR; none is known for the kernel as it stands here.
        out_channels: D, width of the embeddings.
        gamma: Of the kernel.
        order: Of its Taylor expansion.
        train_teacher_embedding: Train the teacher's embedding too, as the benchmark code does.
        views: Views that take part; several make one larger batch.

    Raises:
        ConfigError: If a value is out of range or the mode is unknown.

    References:
        https://arxiv.org/abs/1904.01802
    """

    def __init__(
        self,
        mode: str = 'kernel',
        loss_weight: float = 0.02,
        out_channels: int = 128,
        gamma: float = 0.4,
        order: int = 2,
        train_teacher_embedding: bool = False,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(loss_weight, views)
        self.check_positive(out_channels=out_channels, gamma=gamma, order=order)
        if mode not in MODES:
            raise ConfigError(f'CCSupervision: mode is {mode!r}; choose one of {", ".join(MODES)}.')
        self.mode, self.gamma, self.order = mode, gamma, order
        self.out_channels, self.train_teacher_embedding = out_channels, train_teacher_embedding

    def build(self, network: NetworkInfo) -> None:
        """Build the two embeddings."""
        assert network.teacher is not None
        self.student_embedding = nn.Linear(network.pooled_channels, self.out_channels)
        self.teacher_embedding = nn.Linear(network.teacher.pooled_channels, self.out_channels)
        self.teacher_embedding.requires_grad_(self.train_teacher_embedding)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_correlation``."""
        student, teacher = self.pooled(outputs)
        rows = self.student_embedding(student), self.teacher_embedding(teacher)
        loss = kernel_loss(*rows, self.gamma, self.order) if self.mode == 'kernel' else adjacent_loss(*rows)
        return {'loss_correlation': self.loss_weight * loss}
