"""CRD: closed forms, memories, negatives, gradients, resume, and bad input."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from baseline_cases import network, outputs, total
from torch.nn import functional as F
from torch.testing import assert_close

import mmcds.baselines.crd as module
from mmcds.baselines import CRDSupervision
from mmcds.baselines.crd import NegativeSampler, log_mean_exp, memory_loss, nce_loss
from mmcds.core.errors import ConfigError

LABELS = torch.arange(60) % 3


@pytest.mark.parametrize('number, expected', [(2, 1.90954), (16384, 10.7041)])
def test_equal_scores_have_the_known_loss(number, expected):
    scores = torch.zeros(2, 1 + number, dtype=torch.float64)
    normaliser = torch.tensor(math.log(50000.0), dtype=torch.float64)  # so that every P is 1 / n
    assert_close(nce_loss(scores, normaliser, 50000, eps=0.0).item(), expected, rtol=0, atol=1e-4)
    assert_close(expected, math.log(1 + number) + number * math.log(1 + 1 / number), rtol=0, atol=1e-4)


def test_the_loss_is_that_of_the_formula_with_its_exponentials():
    scores = torch.randn(3, 5, dtype=torch.float64)
    normaliser, noise, eps = torch.tensor(1.3, dtype=torch.float64), 4 / 60, 1e-3
    p = scores.exp() / normaliser.exp()
    expected = -(p[:, 0] / (p[:, 0] + noise + eps)).log() - (noise / (p[:, 1:] + noise + eps)).log().sum(1)
    assert_close(nce_loss(scores, normaliser, 60, eps), expected.mean())


def test_low_temperatures_and_half_precision_do_not_overflow():
    scores = torch.full((1, 3), 200.0, dtype=torch.float16)
    assert torch.isfinite(nce_loss(scores, torch.tensor(0.0), 10))


@pytest.mark.parametrize('chunk', [1, 10**9])
def test_the_memory_is_compared_in_parts_with_the_gradient_of_the_whole(monkeypatch, chunk):
    monkeypatch.setattr(module, 'CHUNK_BYTES', chunk)
    memory = torch.randn(20, 4, dtype=torch.float64)
    anchors = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    index, normaliser = torch.randint(20, (6, 5)), torch.tensor(0.5, dtype=torch.float64)
    scores = torch.stack([memory[index[b]] @ anchors[b] / 0.3 for b in range(6)])
    expected = nce_loss(scores, normaliser, 20)
    found = memory_loss(anchors, memory, index, normaliser, 0.3)
    assert_close(found, expected)
    gradient = torch.autograd.grad(expected, anchors)[0]
    memory.zero_()  # an update between the forward and the backward pass does no harm
    assert_close(torch.autograd.grad(found, anchors)[0], gradient)
    memory.normal_()
    scores = torch.stack([memory[index[b]] @ anchors[b] / 0.3 for b in range(6)])
    assert_close(log_mean_exp(anchors, memory, index, 0.3), scores.exp().mean().log())


@pytest.mark.parametrize('replace_', [False, True])
def test_negatives_are_all_images_of_other_classes_with_equal_chance(replace_):
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 0, 1])
    sampler = NegativeSampler(labels, 4, replace_)
    anchors = torch.tensor([0, 3, 7])
    drawn = torch.stack([sampler.negatives(anchors) for _ in range(4000)])
    assert drawn.shape == (4000, 3, 4)
    assert (labels[drawn] != labels[anchors][None, :, None]).all()
    for column, anchor in enumerate(anchors):
        others = (labels != labels[anchor]).nonzero()[:, 0]
        share = drawn[:, column].flatten().bincount(minlength=8)[others] / drawn[:, column].numel()
        assert_close(share, torch.full_like(share, 1 / len(others)), rtol=0, atol=0.015)  # 4 sigma
    repeated = any(len(set(row.tolist())) < 4 for row in drawn[:, 0])
    assert repeated == replace_


def test_more_negatives_than_there_are_images_are_drawn_with_replacement():
    assert not NegativeSampler(LABELS, 40).replace
    assert NegativeSampler(LABELS, 41).replace
    assert NegativeSampler(LABELS, 41).negatives(torch.tensor([0])).shape == (1, 41)


def test_a_positive_of_the_class_is_any_of_its_images():
    sampler = NegativeSampler(LABELS, 4)
    drawn = torch.cat([sampler.same_class(torch.tensor([5])) for _ in range(500)])
    assert set(drawn.tolist()) == set(range(2, 60, 3))


def bound(labels=LABELS, **arguments):
    torch.manual_seed(1)
    supervision = CRDSupervision(**{**dict(num_negatives=8, out_channels=6, loss_weight=1.0), **arguments})
    supervision.build(network())
    supervision.double()
    supervision.prepare(labels)
    supervision.double()
    return supervision


def test_memories_start_with_rows_of_length_one_on_average():
    supervision = bound(torch.arange(20000) % 2, out_channels=128)
    for memory in (supervision.student_memory, supervision.teacher_memory):
        assert_close(memory.square().sum(1).mean().item(), 1.0, rtol=0.01, atol=0)
        assert memory.abs().max() <= math.sqrt(3 / 128) + 1e-6


@pytest.mark.parametrize('momentum', [0.0, 0.5])
def test_only_the_rows_of_the_batch_move_and_stay_of_unit_length(momentum):
    supervision = bound(momentum=momentum)
    before = supervision.student_memory.clone(), supervision.teacher_memory.clone()
    found = replace(outputs(), sample_idx=torch.tensor([3, 9, 14, 58, 0]))
    supervision(found)
    others = torch.ones(60, dtype=torch.bool)
    others[found.sample_idx] = False
    for memory, old, layer, rows in (
        (supervision.student_memory, before[0], supervision.student_embedding, found.pooled),
        (supervision.teacher_memory, before[1], supervision.teacher_embedding, found.teacher.pooled),
    ):
        assert torch.equal(memory[others], old[others])
        embedded = F.normalize(layer(rows), dim=1)
        expected = F.normalize(momentum * old[found.sample_idx] + (1 - momentum) * embedded, dim=1)
        assert_close(memory[found.sample_idx], expected.detach())


def test_normalisers_are_those_of_the_first_batch():
    supervision = bound()
    assert supervision.log_normalisers.isnan().all()
    supervision(outputs())
    first = supervision.log_normalisers.clone()
    assert torch.isfinite(first).all()
    supervision(outputs(seed=1))
    assert torch.equal(supervision.log_normalisers, first)


def test_the_teachers_network_gets_no_gradient_and_both_embeddings_do():
    supervision, found = bound(), outputs()
    found = replace(found, teacher=replace(found.teacher, pooled=found.teacher.pooled.detach()))
    total(supervision(found)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in supervision.parameters())
    assert found.pooled.grad.abs().max() > 0


def test_an_image_that_occurs_twice_counts_once():
    twice, once = bound(), bound()
    found = outputs()
    repeated = replace(
        found,
        sample_idx=torch.tensor([4, 7, 4, 9, 7]),
        labels=found.labels,
    )
    twice(repeated)
    first = [0, 1, 3]
    once._update(
        torch.stack(
            [
                F.normalize(once.student_embedding(found.pooled[first]), dim=1),
                F.normalize(once.teacher_embedding(found.teacher.pooled[first]), dim=1),
            ]
        ).detach(),
        repeated.sample_idx[first],
    )
    assert_close(twice.student_memory, once.student_memory)
    assert_close(twice.teacher_memory, once.teacher_memory)


def test_a_resumed_run_has_the_memories_and_a_test_needs_no_data_set():
    trained = bound()
    trained(outputs())
    state = copy.deepcopy(trained.state_dict())
    assert state['student_memory'].shape == (60, 6)
    resumed = bound()
    resumed.load_state_dict(state, strict=True)
    assert torch.equal(resumed.teacher_memory, trained.teacher_memory)
    torch.manual_seed(5)
    expected = total(trained(outputs(seed=2)))
    torch.manual_seed(5)
    assert_close(total(resumed(outputs(seed=2))), expected)
    tested = CRDSupervision(num_negatives=8, out_channels=6)
    tested.build(network())
    tested.load_state_dict(state, strict=True)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="positives is 'relax'; choose one of instance, class"):
        CRDSupervision(positives='relax')
    with pytest.raises(ConfigError, match=r'momentum is 1; it must lie in \[0, 1\)'):
        CRDSupervision(momentum=1)
    with pytest.raises(ConfigError, match='one row per image, name one'):
        CRDSupervision(views=(0, 1))
    with pytest.raises(ConfigError, match='20 of 60 training images have no label'):
        bound(LABELS - 1)
    with pytest.raises(ConfigError, match='all training images are of one class'):
        bound(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ConfigError, match='a sample_idx lies beyond the memory of 60 images'):
        bound()(replace(outputs(), sample_idx=torch.tensor([0, 1, 2, 3, 60])))
    with pytest.raises(ConfigError, match='num_negatives is 41, but only 40 images are of other classes'):
        bound(num_negatives=41, replace=False)
    unprepared = CRDSupervision(num_negatives=8)
    unprepared.build(network())
    with pytest.raises(ConfigError, match='does not know the training set'):
        unprepared.double()(outputs())


def test_memories_of_a_loaded_state_are_kept_when_the_images_are_named():
    trained = bound()
    trained(outputs())
    other = CRDSupervision(num_negatives=8, out_channels=6)
    other.build(network())
    other.double().load_state_dict(trained.state_dict())
    other.prepare(LABELS)
    for name, value in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_looking_at_the_loss_changes_no_memory():
    supervision = bound().eval()
    before = {name: value.clone() for name, value in supervision.state_dict().items()}
    with torch.no_grad():
        first = supervision(outputs())
    assert supervision.log_normalisers.isnan().all()
    for name in ('student_memory', 'teacher_memory'):
        assert torch.equal(supervision.state_dict()[name], before[name])
    assert all(value.isfinite() for value in first.values())
    supervision.train()(outputs())
    assert supervision.log_normalisers.isfinite().all()
    kept = {name: value.clone() for name, value in supervision.state_dict().items()}
    supervision.eval()(outputs(seed=1))
    assert all(torch.equal(value, kept[name]) for name, value in supervision.state_dict().items())
