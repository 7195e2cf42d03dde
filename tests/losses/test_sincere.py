"""SINCERE: equality with its formula pair by pair, closed forms, its relation to the other losses, gradients."""

import math

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.losses import SINCERELoss, ntxent_loss, number_classes, sincere_loss, supcon_loss


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1)


def pair_by_pair(embeddings, labels, tau):
    """The loss of arXiv 2309.14277, for one anchor and one positive after the other."""
    views = len(embeddings)
    rows = embeddings.flatten(0, 1)
    classes = [(label if label >= 0 else f'image {number}') for number, label in enumerate(labels.tolist())] * views
    total = 0.0
    for i, row in enumerate(rows):
        score = [math.exp(float(row @ other) / tau) for other in rows]
        negative = sum(score[n] for n in range(len(rows)) if classes[n] != classes[i])
        positives = [p for p in range(len(rows)) if classes[p] == classes[i] and p != i]
        total += sum(-math.log(score[p] / (score[p] + negative)) for p in positives) / len(positives)
    return total / len(rows)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('tau', [0.07, 0.5])
def test_it_is_the_formula(seed, tau):
    views, images = 2 + seed % 3, 1 + seed
    labels = torch.randint(-1, 3, (images,), generator=torch.Generator().manual_seed(seed))
    embeddings = unit(views, images, 5, seed=seed)
    expected = pair_by_pair(embeddings, labels, tau)
    assert sincere_loss(embeddings, labels, tau).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    numbered = sincere_loss(embeddings, number_classes(labels), tau)
    assert torch.equal(numbered, sincere_loss(embeddings, labels, tau))


def test_equal_rows_give_the_logarithm_of_one_and_the_other_classes():
    rows = F.normalize(torch.ones(2, 6, 4), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 1, -1])
    negatives = [6, 6, 6, 8, 8, 10]  # rows of other classes, by image
    expected = sum(math.log(1 + count) for count in negatives) / 6
    assert sincere_loss(rows, labels).item() == pytest.approx(expected, rel=1e-6)


def test_one_class_has_nothing_to_push_away():
    rows = unit(2, 4, 3).requires_grad_()
    loss = sincere_loss(rows, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(rows.grad, torch.zeros_like(rows))


def test_without_labels_two_views_make_it_ntxent():
    rows = unit(2, 5, 4)
    assert_close(sincere_loss(rows, None, 0.2), ntxent_loss(rows, 0.2))
    assert_close(sincere_loss(rows, torch.arange(5), 0.2), supcon_loss(rows, torch.arange(5), 0.2))


def test_it_is_never_above_supcon():
    """Its denominators have fewer terms."""
    for seed in range(5):
        rows, labels = unit(3, 7, 4, seed=seed), torch.arange(7) % 3
        assert sincere_loss(rows, labels, 0.1) < supcon_loss(rows, labels, 0.1)


def test_gradients():
    rows, tau = unit(2, 4, 3).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 0, -1])
    assert torch.autograd.gradcheck(lambda rows, tau: sincere_loss(rows, labels, tau), (rows, tau))


def test_anchors_of_the_ranks_add_up():
    rows, labels = unit(2, 6, 4), torch.tensor([0, 1, 0, 2, 2, -1])
    parts = [sincere_loss(rows, labels, local=part, num_ranks=2) for part in (slice(0, 2), slice(2, 6))]
    assert_close(sum(parts) / 2, sincere_loss(rows, labels))


def test_half_precision_is_computed_in_float32():
    rows, labels = unit(2, 6, 4).sign().bfloat16() / 2, torch.tensor([0, 1, 0, 2, 2, 1])  # of length 1, exactly
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = sincere_loss(rows, labels)
    assert loss.dtype == torch.float32
    assert_close(loss, sincere_loss(rows.float(), labels))


def test_the_registered_form():
    loss = MODELS.build(dict(type='SINCERELoss', temperature=0.2, loss_weight=3.0, normalize=True))
    rows, labels = torch.randn(2, 5, 4), torch.tensor([0, 0, 1, 1, -1])
    assert_close(loss(rows, labels), 3 * sincere_loss(F.normalize(rows, dim=-1), labels, 0.2))
    learned = SINCERELoss(learn_temperature=True)
    learned(unit(2, 5, 4), labels).backward()
    assert learned.log_temperature.grad.abs() > 0


def test_one_view_is_refused():
    with pytest.raises(ConfigError, match=r'shape \(1, 4, 3\); give \(V, N, D\) with at least two views'):
        sincere_loss(unit(1, 4, 3))


@pytest.mark.parametrize(
    'scale, error, message',
    [(2.0, ConfigError, 'the longest has 2'), (float('nan'), DivergedError, 'embeddings contain NaN or infinity')],
)
def test_rows_that_are_not_of_unit_length_are_refused(scale, error, message):
    with pytest.raises(error, match=f'sincere_loss: .*{message}'):
        sincere_loss(unit(2, 4, 3) * scale)
