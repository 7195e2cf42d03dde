"""Measures of features: closed forms, invariances and equality with independent formulas."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.evaluation import cka_matrix, fit_linear_probe, knn_accuracy, linear_cka, representation


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_hsic(x, y, unbiased):
    """Equation 3 of Kornblith et al., or Equation 5 of Song et al., from the N x N kernels."""
    n = len(x)
    first, second = x @ x.t(), y @ y.t()
    if not unbiased:
        centre = torch.eye(n).double() - 1 / n
        return (first @ centre @ second @ centre).trace() / (n - 1) ** 2
    first, second = (kernel - kernel.diag().diag() for kernel in (first, second))
    one = torch.ones(n).double()
    whole = (one @ first @ one) * (one @ second @ one) / ((n - 1) * (n - 2))
    return ((first @ second).trace() + whole - 2 / (n - 2) * (one @ first @ second @ one)) / (n * (n - 3))


@pytest.mark.parametrize('unbiased', [False, True])
def test_cka_is_that_of_the_gram_matrices(unbiased, monkeypatch):
    monkeypatch.setattr(representation, 'BLOCK', 7)
    x = gaussian(30, 5) + 3
    y = torch.cat([x[:, :2] ** 2, gaussian(30, 2, seed=1)], 1)
    norm = (gram_hsic(x, x, unbiased) * gram_hsic(y, y, unbiased)).sqrt()
    assert_close(linear_cka(x, y, unbiased), gram_hsic(x, y, unbiased) / norm)


@pytest.mark.parametrize('unbiased', [False, True])
def test_cka_sees_neither_rotation_nor_scale_nor_shift_but_other_linear_maps(unbiased):
    x, y = gaussian(40, 6), gaussian(40, 4, seed=1)
    y[:, :3] += x[:, :3]
    rotation = torch.linalg.qr(gaussian(6, 6, seed=2))[0]
    assert_close(linear_cka(x, x, unbiased).item(), 1.0)
    assert_close(linear_cka(x, -2 * x @ rotation + 5, unbiased).item(), 1.0)
    before = linear_cka(x, y, unbiased)
    assert_close(linear_cka(3 * x @ rotation - 1, y, unbiased), before)
    assert_close(linear_cka(y, x, unbiased), before)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert abs(linear_cka(stretched, y, unbiased) - before) > 0.05


def test_cka_of_independent_features_is_its_bias_and_0_without():
    count, width = 6400, 64  # the squares of 64 x 64 correlations: 2 % of their mean is one standard deviation
    x, y = gaussian(count, width), gaussian(count, width, seed=1)
    assert linear_cka(x, y, unbiased=False).item() == pytest.approx(width / (count + width), rel=0.1)
    assert abs(linear_cka(x, y).item()) < 0.1 * width / (count + width)


def test_cka_matrix_holds_every_pair():
    xs, ys = [gaussian(20, 3), gaussian(20, 4, seed=1)], [gaussian(20, d, seed=d) for d in (2, 5, 6)]
    found = cka_matrix(xs, ys)
    assert found.shape == (2, 3)
    assert_close(found, torch.stack([torch.stack([linear_cka(x, y) for y in ys]) for x in xs]))


def test_cka_of_a_constant_is_undefined():
    assert linear_cka(gaussian(9, 2), torch.ones(9, 2)).isnan()


@pytest.mark.parametrize('rows', [(5, 6), (3, 3)])
def test_cka_needs_the_same_images_and_enough_of_them(rows):
    with pytest.raises(ConfigError, match=rf'CKA: the features are of {"5, 6" if rows == (5, 6) else 3} images'):
        linear_cka(gaussian(rows[0], 2), gaussian(rows[1], 2))


# ---- k nearest neighbours


@pytest.mark.parametrize('temperature', [0.07, 1.0, math.inf])
def test_knn_is_the_vote_counted_by_hand(temperature, monkeypatch):
    monkeypatch.setattr(representation, 'BLOCK', 4)
    train, test = gaussian(25, 3), gaussian(10, 3, seed=1)
    labels, truth = torch.arange(25) % 3, torch.arange(10) % 3
    correct = 0
    for row, label in zip(test, truth, strict=True):
        cosines = [float(row @ other / row.norm() / other.norm()) for other in train]
        votes = [0.0] * 3
        for nearest in sorted(range(25), key=cosines.__getitem__)[-5:]:
            votes[labels[nearest]] += math.exp(cosines[nearest] / temperature)
        correct += votes.index(max(votes)) == label
    assert 0 < correct < 10
    assert knn_accuracy(train, labels, test, truth, neighbours=5, temperature=temperature) == 10 * correct


def test_nearest_neighbour_of_a_training_image_is_itself_at_any_length():
    train, labels = gaussian(30, 4), torch.arange(30) % 3
    assert knn_accuracy(train, labels, 7 * train, labels, neighbours=1) == 100
    assert knn_accuracy(train, labels, 7 * train, (labels + 1) % 3, neighbours=1) == 0
    shifted = train + 0.1 * torch.randn_like(train)
    nearest = knn_accuracy(train, labels, shifted, labels, neighbours=1)
    assert knn_accuracy(train, labels, shifted, labels, temperature=1e-6) == nearest, 'the nearest one alone votes'
    assert knn_accuracy(train, labels, train, labels, neighbours=1000, temperature=math.inf) == pytest.approx(100 / 3)


# ---- linear probe


def objective(weight, bias, x, labels, l2):
    """The regularised objective in terms of raw columns, by hand."""
    x = (x - x.mean(0)) / x.var(0, correction=0).sqrt()
    logits = x @ weight.t() + bias
    likelihood = torch.stack([row[y] - row.exp().sum().log() for row, y in zip(logits, labels, strict=True)])
    return -likelihood.mean() + l2 / 2 * (weight**2).sum()


@pytest.mark.parametrize('l2', [1e-3, 0.5])
def test_the_gradient_of_the_objective_is_0_at_the_probe(l2):
    x, labels = gaussian(60, 4) * torch.tensor([1.0, 50, 1e-3, 2]) + 8, torch.arange(60) % 3
    x[:, 0] += labels
    probe = fit_linear_probe(x.float(), labels, 3, l2)
    weight, bias = (value.clone().requires_grad_() for value in (probe.weight, probe.bias))
    objective(weight, bias, x.float().double(), labels, l2).backward()
    assert_close(weight.grad, torch.zeros(3, 4).double(), atol=1e-6, rtol=0)
    assert_close(bias.grad, torch.zeros(3).double(), atol=1e-6, rtol=0)
    assert weight.norm() > 0.1


def test_a_probe_separates_what_can_be_separated_and_is_at_chance_on_random_labels():
    labels = torch.arange(900) % 3
    x = gaussian(900, 8) + 12 * F.one_hot(labels, 8)
    x[:, 7] = 5.0  # constant columns do no harm
    probe = fit_linear_probe(x[:600], labels[:600], 3)
    assert probe.accuracy(x[600:], labels[600:]) == 100
    noise = gaussian(3000, 8, seed=1)
    classes = torch.randint(3, (3000,), generator=torch.Generator().manual_seed(2))
    probe = fit_linear_probe(noise[:1000], classes[:1000], 3)
    chance, spread = 100 / 3, 100 * math.sqrt(2 / 9 / 2000)
    assert abs(probe.accuracy(noise[1000:], classes[1000:]) - chance) < 4 * spread


def test_a_probe_sees_neither_scale_nor_shift_of_a_column_and_draws_nothing():
    x, labels = gaussian(50, 3), torch.arange(50) % 2
    first = fit_linear_probe(x, labels, 2)
    state = torch.get_rng_state()
    second = fit_linear_probe(x * torch.tensor([2.0, 1e3, 1e-3]) - 4, labels, 2)
    assert torch.equal(state, torch.get_rng_state())
    assert_close(first.weight, second.weight, atol=1e-6, rtol=1e-6)
    assert torch.equal(first.weight, fit_linear_probe(x, labels, 2).weight)
