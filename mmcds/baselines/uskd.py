"""USKD, universal self-distillation: labels softened by the network's own logits, without a teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.baselines.auxiliary import AuxiliarySupervision
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact, mean_of_labelled
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS


@exact
def shares_of_others(logits: Tensor, weak: Tensor, labels: Tensor) -> Tensor:
    r"""Divide 1 among the classes other than the right one by their rank, as Zipf's law has it.

    Class i is ranked by :math:`\frac{w_i}{1 - w_y} + \frac{\log s_i}{1 - \log s_y}`, with the logarithms that the
    authors' code has; s and w are the probabilities of the network and of the weak classifier. All classes have a
    rank R, and the shares are proportional to 1/R.

    Args:
        logits: The network's. (N, K).
        weak: Those of the weak classifier. (N, K).
        labels: Right class y of every row. (N,), int64 >= 0.

    Returns:
        (N, K), no gradient; 0 at the right class.
    """
    places = labels[:, None]
    both = weak.softmax(1), logits.log_softmax(1)
    first, second = (each / (1 - each.gather(1, places) + 1e-6) for each in both)
    rank = 1 + (first + second).argsort(1, descending=True).argsort(1)
    shares = (1 / rank.to(logits.dtype)).scatter(1, places, 0)
    return shares / shares.sum(1, keepdim=True)


@exact
def self_terms(logits: Tensor, weak: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the three cross-entropies of self-distillation, for every row.

    .. math:: -\Bigl(1 + s_y^2 - \overline{s_y^2}\Bigr) \log s_y, \qquad -\sum_{i \ne y} z_i \log \hat s_i, \qquad
        -\sum_i \Bigl(0.9 \, [i = y] + \frac{0.1}{K}\Bigr) \log w_i

    The bar is the mean over the labelled rows, z are :func:`shares_of_others`, and the hat means among the classes
    other than y. Factor and z have no gradient.

    Args:
        logits: The network's. (N, K).
        weak: Those of the weak classifier. (N, K).
        labels: Right class y of every row, -1 where it is unlabelled. (N,), int64.

    Returns:
        The terms, (N,) each, of no meaning where a row is unlabelled.

    References:
        https://arxiv.org/abs/2303.13005
    """
    known = labels.clamp(min=0)
    places = known[:, None]
    right = logits.log_softmax(1).gather(1, places)[:, 0]
    square = (2 * right.detach()).exp()
    factor = 1 + square - mean_of_labelled(square, labels)
    own = F.one_hot(known, logits.shape[1]).bool()
    among = logits.masked_fill(own, -torch.inf).log_softmax(1).masked_fill(own, 0)
    others = -(shares_of_others(logits, weak, known) * among).sum(1)
    return -factor * right, others, F.cross_entropy(weak, known, reduction='none', label_smoothing=0.1)


@MODELS.register
class USKDSupervision(AuxiliarySupervision):
    r"""Universal self-knowledge distillation: :func:`self_terms` times alpha, beta and mu.

    It comes beside the whole cross-entropy. The weak classifier is linear, on the pooled feature of an earlier
    stage; its loss reaches that stage. Rows without a label have no right class and do not take part. The mean
    over the batch is that of a rank.

    Args:
        taps: The stage with the weak classifier, the last but one in the authors' code.
        alpha: Weight of the right class; 1 on ImageNet and 0.1 on CIFAR-100 there.
        beta: Weight of the other classes; 0.1 there.
        mu: Weight of the weak classifier; 0.005 on ImageNet and 0.1 on CIFAR-100 there.
        views: Views that take part.

    Raises:
        ConfigError: If a weight is out of range, or if there is not one tap.

    References:
        https://arxiv.org/abs/2303.13005
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (2,),
        alpha: float = 1.0,
        beta: float = 0.1,
        mu: float = 0.005,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(taps, 'pool', views=views)
        self.check_positive(alpha=alpha, beta=beta, mu=mu)
        if len(self.taps) > 1:
            raise ConfigError(f'USKDSupervision: taps is {self.taps}; name a single stage.')
        self.alpha, self.beta, self.mu = alpha, beta, mu

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_target``, ``loss_others``, ``<tap>.loss_weak`` and ``<tap>.accuracy``."""
        (weak,), labels = self.classify(outputs)
        right, others, own = self_terms(self.select(outputs.logits, outputs), weak, labels)
        return {
            'loss_target': self.alpha * mean_of_labelled(right, labels),
            'loss_others': self.beta * mean_of_labelled(others, labels),
            f'{tap_name(self.taps[0])}.loss_weak': self.mu * mean_of_labelled(own, labels),
            **self.accuracies([weak], labels),
        }
