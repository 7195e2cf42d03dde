"""NKD, normalised distillation: the teacher's weight on the right class, and its shares among the others."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.numerics import exact, mean_of_labelled
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.methods import LogitDistillation


@exact
def normalized_terms(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    r"""Return the two cross-entropies of normalised distillation, for every row.

    .. math:: -t_y \log s_y, \qquad -\sum_{i \ne y} \hat t_i \log \hat s_i

    t and s are probabilities of teacher and student, those with a hat among the classes other than y, softened.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K), no gradient.
        labels: Right class y of every row. (N,), int64 >= 0.
        temperature: T, of the second term alone.

    Returns:
        Both terms, (N,) each.

    References:
        https://arxiv.org/abs/2303.13005
    """
    own = F.one_hot(labels, student.shape[1]).bool()
    places = labels[:, None]
    right = -(teacher.detach().softmax(1) * student.log_softmax(1)).gather(1, places)[:, 0]
    ours, theirs = ((each / temperature).masked_fill(own, -torch.inf) for each in (student, teacher.detach()))
    others = theirs.softmax(1) * ours.log_softmax(1).masked_fill(own, 0)
    return right, -others.sum(1)


@MODELS.register
class NKDSupervision(LogitDistillation):
    r"""Normalised knowledge distillation.

    .. math:: -t_y \log s_y - \gamma \, T^2 \sum_{i \ne y} \hat t_i \log \hat s_i

    It comes beside the whole cross-entropy. Rows without a label have no right class and do not take part.

    Args:
        temperature: T; 1 in the authors' code.
        gamma: Weight of the other classes; 1.5 there.
        views: Views that take part.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/2303.13005
    """

    def __init__(self, temperature: float = 1.0, gamma: float = 1.5, views: Sequence[int] = (0,)) -> None:
        super().__init__(temperature=temperature, views=views)
        self.check_positive(gamma=gamma)
        self.gamma = gamma

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_target`` and ``loss_others``; 0 if no row has a label."""
        student, teacher = self.logits(outputs)
        labels = self.select_labels(outputs)
        right, others = normalized_terms(student, teacher, labels.clamp(min=0), self.temperature)
        return {
            'loss_target': mean_of_labelled(right, labels),
            'loss_others': self.gamma * self.temperature**2 * mean_of_labelled(others, labels),
        }
