"""DIST, distillation by correlation: not the teacher's probabilities, but their order and shape."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mmcds.core.numerics import at_least_float32, exact
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.methods import LogitDistillation


@exact
def correlation_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 minus the mean over rows of Pearson's correlation of a student's and a teacher's row (N, K).

    A row whose entries are all equal has no correlation; it counts as 0, and has no gradient.

    References:
        https://arxiv.org/abs/2205.10536
    """
    rows = (each - each.mean(1, keepdim=True) for each in (student, teacher.detach()))
    ours, theirs = (F.normalize(row, dim=1, eps=1e-8) for row in rows)
    return 1 - (ours * theirs).sum(1).mean()


@MODELS.register
class DISTSupervision(LogitDistillation):
    r"""Correlations of softened classes, along the classes of an image and along the images of a class.

    .. math:: T^2 \bigl(\beta \, d(y_s, y_t) + \gamma \, d(y_s^\top, y_t^\top)\bigr), \quad y = \sigma(z / T)

    Sigma is the softmax. The batch is that of a rank. Unlabelled images take part.

    Args:
        temperature: T.
        beta: Weight along the classes (inter-class relation).
        gamma: Weight along the images (intra-class relation).
        views: Views that take part; several make one larger batch.

    The defaults are those of the authors' code.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/2205.10536
    """

    def __init__(
        self, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0, views: Sequence[int] = (0,)
    ) -> None:
        super().__init__(temperature=temperature, views=views)
        self.check_positive(beta=beta, gamma=gamma)
        self.beta, self.gamma = beta, gamma

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_inter`` and ``loss_intra``."""
        soft = [(at_least_float32(logits) / self.temperature).softmax(1) for logits in self.logits(outputs)]
        square = self.temperature**2
        return {
            'loss_inter': self.beta * square * correlation_distance(*soft),
            'loss_intra': self.gamma * square * correlation_distance(*(each.T for each in soft)),
        }
