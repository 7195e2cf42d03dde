"""Measures of features, one row per image: centred kernel alignment, k-nearest neighbours and linear probes.

Alignment and uniformity of unit rows are in :mod:`mmcds.losses.metrics`. Everything is computed in float64 and draws
no random numbers, so the same features give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError

#: Rows that are looked at together, which bounds the memory that is needed beside the features.
BLOCK = 4096


def linear_cka(first: Tensor, second: Tensor, unbiased: bool = True) -> Tensor:
    r"""Measure how alike two sets of features of the same images are, whatever rotation and scale they have.

    .. math:: \frac{HSIC(X, Y)}{\sqrt{HSIC(X, X)\, HSIC(Y, Y)}}, \qquad HSIC(X, Y) \propto \lVert Y^T X \rVert_F^2

    for centred columns. Images enter through D x D matrices alone, so memory does not grow with their number.

    The form above is biased upwards: for independent features it is about
    :math:`\sqrt{D_x D_y / ((N + D_x)(N + D_y))}`, which is one half for 2,048 columns and as many images.
    ``unbiased`` puts the unbiased estimate of HSIC in its place, which is about 0 there, and can be slightly negative.

    Args:
        first: Features X, (N, D_x).
        second: Features Y of the same images in the same order, (N, D_y).
        unbiased: Whether to use the unbiased estimate, which needs four images.

    Returns:
        Scalar, float64: 1 if one is a rotated, scaled and shifted copy of the other; NaN if one is constant.

    Raises:
        ConfigError: If the numbers of images differ or are too small.

    References:
        https://arxiv.org/abs/1905.00414, Equation 3 and Section 3.1 (feature space).
        https://jmlr.org/papers/v13/song12a.html, Equation 5 (unbiased).
    """
    return cka_matrix([first], [second], unbiased)[0, 0]


def cka_matrix(first: Sequence[Tensor], second: Sequence[Tensor], unbiased: bool = True) -> Tensor:
    """Return :func:`linear_cka` of every pair of two lists of features of the same images.

    Args:
        first: A list of A features, (N, D_a) each.
        second: A list of B features, (N, D_b) each.
        unbiased: See :func:`linear_cka`.

    Returns:
        (A, B), float64.

    Raises:
        ConfigError: As :func:`linear_cka`.
    """
    counts, least = sorted({len(rows) for rows in (*first, *second)}), 4 if unbiased else 2
    if len(counts) > 1 or counts[0] < least:
        raise ConfigError(
            f'CKA: the features are of {", ".join(map(str, counts))} images; give features of the same images, at '
            f'least {least}.'
        )
    norms = [[_hsic(rows, rows, unbiased) for rows in features] for features in (first, second)]
    values = torch.stack([torch.stack([_hsic(x, y, unbiased) for y in second]) for x in first])
    return values / (torch.stack(norms[0])[:, None] * torch.stack(norms[1])).sqrt()


def _hsic(first: Tensor, second: Tensor, unbiased: bool) -> Tensor:
    """Return the HSIC of linear kernels up to a factor that depends on N alone."""
    count, means = len(first), (first.mean(0, dtype=torch.float64), second.mean(0, dtype=torch.float64))
    cross = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64, device=first.device)
    sums = cross.new_zeros(3)  # of the kernels' diagonals, and of their products
    for start in range(0, count, BLOCK):
        x, y = (rows[start : start + BLOCK] - mean for rows, mean in zip((first, second), means, strict=True))
        cross += x.t() @ y
        own, other = x.square().sum(1), y.square().sum(1)
        sums += torch.stack([own.sum(), other.sum(), own @ other])
    total = cross.square().sum()
    if not unbiased:
        return total
    # With centred columns, the rows of a kernel without its diagonal add up to minus the diagonal.
    return total - sums[2] * count / (count - 2) + sums[0] * sums[1] / ((count - 1) * (count - 2))


def knn_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Return the accuracy of a weighted vote of the nearest training images by cosine.

    A neighbour at cosine s votes for its class with weight exp(s / temperature); an infinite temperature is the plain
    vote, where of equal counts the smallest class wins.

    Args:
        train: Features of the training images, (N, D).
        train_labels: Their classes, (N,).
        test: Features of the test images, (M, D).
        test_labels: Their classes, (M,).
        neighbours: How many vote; with fewer training images, all do.
        temperature: > 0. The default of both is that of the reference on small images.

    Returns:
        Percentage of the test images whose class wins.

    References:
        https://arxiv.org/abs/1805.01978, Section 3.4.
    """
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    train, test = (F.normalize(rows.double(), dim=1) for rows in (train, test))
    correct = 0
    for start in range(0, len(test), BLOCK):
        cosine, nearest = (test[start : start + BLOCK] @ train.t()).topk(min(neighbours, len(train)))
        votes = cosine.new_zeros(len(cosine), classes)
        votes.scatter_add_(1, train_labels[nearest], ((cosine - cosine[:, :1]) / temperature).exp())
        correct += int((votes.argmax(1) == test_labels[start : start + BLOCK]).sum())
    return 100 * correct / len(test)


@dataclass(frozen=True)
class LinearProbe:
    """A linear classifier of standardised features.

    Attributes:
        mean: Of the training features, (D,).
        std: Their standard deviation, 1 for a constant column, (D,).
        weight: (K, D).
        bias: (K,).
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of features (N, D)."""
        return (features - self.mean) / self.std @ self.weight.t() + self.bias

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the percentage of the images (N, D) that get their class (N,)."""
        return 100 * float((self(features).argmax(1) == labels).double().mean())


def fit_linear_probe(features: Tensor, labels: Tensor, num_classes: int, l2: float = 1e-3) -> LinearProbe:
    r"""Fit a multinomial logistic regression to features that stay as they are.

    .. math:: \frac{1}{N} \sum_n -\log p_{y_n}(W \hat{x}_n + b) + \frac{l_2}{2} \lVert W \rVert_F^2

    on columns :math:`\hat{x}` of mean 0 and variance 1. The minimum is unique but for a constant in b, and full-batch
    L-BFGS from zero finds it, so there is nothing to tune but ``l2``.

    Args:
        features: (N, D).
        labels: Classes, (N,).
        num_classes: K.
        l2: Weight of the squared norm; the default is that of scikit-learn for 1,000 images.

    References:
        https://arxiv.org/abs/1610.01644, Section 3 (linear classifier probes).
    """
    x = features.double()
    mean, std = x.mean(0), x.std(0, correction=0)
    std = torch.where(std > 0, std, torch.ones_like(std))
    x = (x - mean) / std
    parameters = x.new_zeros(num_classes, x.shape[1] + 1, requires_grad=True)  # weight and, in the last column, bias
    solver = torch.optim.LBFGS(
        [parameters],
        max_iter=1000,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn='strong_wolfe',
    )

    def objective() -> Tensor:
        solver.zero_grad()
        weight, bias = parameters[:, :-1], parameters[:, -1]
        value = F.cross_entropy(x @ weight.t() + bias, labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(objective)
    found = parameters.detach()
    return LinearProbe(mean, std, found[:, :-1].clone(), found[:, -1].clone())
