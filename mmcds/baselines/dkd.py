"""DKD, decoupled distillation: how sure the teacher is of the right class, and how it ranks the others, apart."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact, mean_of_labelled
from mmcds.core.outputs import StepOutputs
from mmcds.core.registry import MODELS
from mmcds.methods import LogitDistillation


@exact
def decoupled_divergences(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, ...]:
    r"""Split the divergence of softened classes into that of the right class and that among the others.

    With b the probability of the right class,

    .. math:: KL = KL(b_t \Vert b_s) + (1 - b_t) \, KL(\text{others}_t \Vert \text{others}_s)

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K), no gradient.
        labels: Right class of every row. (N,), int64 >= 0.
        temperature: T.

    Returns:
        First divergence, second divergence without its factor, and the factor 1 - b_t. Each (N,).

    References:
        https://arxiv.org/abs/2203.08679
    """
    own = F.one_hot(labels, student.shape[1]).bool()
    logs, rights, others = [], [], []
    for logits in (student, teacher.detach()):
        log = (logits / temperature).log_softmax(1)
        other = log.masked_fill(own, -torch.inf).logsumexp(1)
        rights.append(log.gather(1, labels[:, None])[:, 0])
        others.append(other)
        logs.append(log - other[:, None])  # among the others
    right = rights[1].exp() * (rights[1] - rights[0]) + others[1].exp() * (others[1] - others[0])
    among = torch.where(own, 0, logs[1].exp() * (logs[1] - logs[0])).sum(1)
    return right, among, others[1].exp()


@MODELS.register
class DKDSupervision(LogitDistillation):
    r"""Decoupled knowledge distillation.

    .. math:: T^2 \bigl(\alpha \, KL(b_t \Vert b_s) + \beta \, KL(\text{others}_t \Vert \text{others}_s)\bigr)

    Rows without a label have no right class and do not take part. The weights grow from 0 over the first part of a
    run, as in the authors' code.

    Args:
        temperature: T; 4 on CIFAR and 1 on ImageNet in the authors' code.
        alpha: Weight of the right class.
        beta: Weight of the others; 8 on CIFAR (for most pairs) and 0.5 on ImageNet in the authors' code.
        warmup: Share of the run until both have their full weight, 0 for all of it; 20 of 240 epochs there.
        views: Views that take part.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/2203.08679
    """

    def __init__(
        self,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 8.0,
        warmup: float = 20 / 240,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(temperature=temperature, views=views)
        self.check_positive(alpha=alpha, beta=beta)
        if not 0 <= warmup <= 1:
            raise ConfigError(f'DKDSupervision: warmup is {warmup}; give a share of the run, from 0 to 1.')
        self.alpha, self.beta, self.warmup = alpha, beta, warmup

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_target`` and ``loss_others``; 0 if no row has a label."""
        student, teacher = self.logits(outputs)
        labels = self.select_labels(outputs)
        right, among, _ = decoupled_divergences(student, teacher, labels.clamp(min=0), self.temperature)
        grown = min(1.0, outputs.progress / self.warmup) if self.warmup else 1.0
        factor = self.temperature**2 * grown
        return {
            'loss_target': self.alpha * factor * mean_of_labelled(right, labels),
            'loss_others': self.beta * factor * mean_of_labelled(among, labels),
        }
