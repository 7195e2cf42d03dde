"""DKD, DIST, NKD and KD on standardised logits: closed forms, identities, invariances."""

import math
from dataclasses import replace

import pytest
import torch
from baseline_cases import outputs, total
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import DISTSupervision, DKDSupervision, NKDSupervision, StandardizedKDSupervision
from mmcds.baselines.dist import correlation_distance
from mmcds.baselines.dkd import decoupled_divergences
from mmcds.baselines.nkd import normalized_terms
from mmcds.baselines.standardized_kd import standardize
from mmcds.core.errors import ConfigError


def logits(seed=0, rows=6, classes=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, rows, classes, generator=generator, dtype=torch.float64).unbind()


def values(supervision, student, teacher, labels=None, progress=1.0):
    found = outputs(images=len(student))
    labels = torch.arange(len(student)) % student.shape[1] if labels is None else labels
    found = replace(found, logits=student, labels=labels, progress=progress)
    return supervision(replace(found, teacher=replace(found.teacher, logits=teacher)))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_the_parts_of_dkd_add_up_to_the_divergence(temperature):
    student, teacher = logits()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    right, among, factor = decoupled_divergences(student, teacher, labels, temperature)
    soft = [(each / temperature).log_softmax(1) for each in (student, teacher)]
    whole = F.kl_div(*soft, reduction='none', log_target=True).sum(1)
    assert_close(right + factor * among, whole)
    assert_close(factor, 1 - soft[1].exp().gather(1, labels[:, None])[:, 0])
    assert (right >= 0).all()
    assert (among >= 0).all()


def test_dkd_by_hand():
    """Teacher 1/2, 1/4, 1/4, student uniform: 1/2 log(3/2) + 1/2 log(3/4) for the right class, 0 among the others."""
    teacher = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 3, dtype=torch.float64)
    found = values(DKDSupervision(temperature=1.0, alpha=2.0, beta=3.0), student, teacher, torch.tensor([0]))
    assert_close(found['loss_target'].item(), 2 * 0.5 * (math.log(1.5) + math.log(0.75)))
    assert_close(found['loss_others'].item(), 0.0, rtol=0, atol=1e-12)
    other = values(DKDSupervision(temperature=1.0), student, teacher, torch.tensor([1]))
    expected = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)  # 2/3, 1/3 against 1/2, 1/2
    assert_close(other['loss_others'].item(), 8 * expected)


def test_dkd_leaves_out_what_has_no_label_and_grows():
    student, teacher = logits()
    labels = torch.tensor([0, -1, 2, -1, 4, -1])
    known = torch.tensor([0, 2, 4])
    supervision = DKDSupervision()
    few = values(supervision, student[known], teacher[known], labels[known])
    assert_close(values(supervision, student, teacher, labels), few)
    half = values(supervision, student, teacher, labels, progress=10 / 240)
    assert_close(half['loss_others'], few['loss_others'] / 2)
    none = values(supervision, student.requires_grad_(), teacher, torch.full((6,), -1))
    assert total(none) == 0
    total(none).backward()
    assert student.grad.abs().max() == 0


def test_nkd_by_hand():
    """Teacher 1/2, 1/4, 1/4, student 3/5, 1/5, 1/5 by powers: 1/2 log(5/3), and log 2 among two even others."""
    teacher = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    student = torch.tensor([[math.log(3), 0.0, 0.0]], dtype=torch.float64)
    found = values(NKDSupervision(gamma=2.0), student, teacher, torch.tensor([0]))
    assert_close(found['loss_target'].item(), 0.5 * math.log(5 / 3))
    assert_close(found['loss_others'].item(), 2 * math.log(2))
    other = values(NKDSupervision(temperature=2.0), student, teacher, torch.tensor([1]))
    ours, theirs = ((root := math.sqrt(number)) / (root + 1) for number in (3, 2))  # softened, without class 1
    expected = -(theirs * math.log(ours) + (1 - theirs) * math.log(1 - ours))
    assert_close(other['loss_others'].item(), 1.5 * 4 * expected)
    assert_close(other['loss_target'].item(), 0.25 * math.log(5))


def test_nkd_is_least_where_the_student_ranks_the_others_as_the_teacher_does():
    """The gradient of the second term has no part along the right class, and vanishes at the teacher's shares."""
    student, teacher = logits()
    labels = torch.arange(6) % 5
    student.requires_grad_()
    normalized_terms(student, teacher, labels, 3.0)[1].sum().backward()
    assert student.grad.gather(1, labels[:, None]).abs().max() == 0
    same = (teacher + 7 * F.one_hot(labels, 5)).requires_grad_()
    normalized_terms(same, teacher, labels, 3.0)[1].sum().backward()
    assert_close(same.grad, torch.zeros_like(same), rtol=0, atol=1e-12)


def test_nkd_leaves_out_what_has_no_label():
    student, teacher = logits()
    labels = torch.tensor([0, -1, 2, -1, 4, -1])
    known = torch.tensor([0, 2, 4])
    few = values(NKDSupervision(), student[known], teacher[known], labels[known])
    assert_close(values(NKDSupervision(), student, teacher, labels), few)
    none = values(NKDSupervision(), student.requires_grad_(), teacher, torch.full((6,), -1))
    assert total(none) == 0
    total(none).backward()
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize('warmup', [-0.1, 1.5])
def test_a_warmup_is_a_share_of_the_run(warmup):
    with pytest.raises(ConfigError, match=r'warmup is .*give a share of the run'):
        DKDSupervision(warmup=warmup)


def test_dist_is_the_correlation():
    student, teacher = logits()
    found = values(DISTSupervision(temperature=4.0, beta=2.0, gamma=3.0), student, teacher)
    soft = [(each / 4).softmax(1) for each in (student, teacher)]
    rows = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*soft, strict=True)])
    columns = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(soft[0].T, soft[1].T, strict=True)])
    assert_close(found['loss_inter'], 2 * 16 * (1 - rows.mean()), check_dtype=False, rtol=1e-5, atol=1e-5)
    assert_close(found['loss_intra'], 3 * 16 * (1 - columns.mean()), check_dtype=False, rtol=1e-5, atol=1e-5)


def test_a_correlation_does_not_see_scale_and_shift():
    student, teacher = logits()
    distance = correlation_distance(student, teacher)
    assert_close(correlation_distance(3 * student + 2, 0.1 * teacher - 1), distance)
    assert_close(correlation_distance(teacher, teacher).item(), 0.0, rtol=0, atol=1e-12)
    assert_close(correlation_distance(-teacher, teacher).item(), 2.0)
    assert correlation_distance(torch.ones(2, 3), torch.randn(2, 3)) == 1


def test_standardised_logits_do_not_see_scale_and_shift():
    student, teacher = logits()
    rows = standardize(student)
    assert_close(rows.mean(1), torch.zeros(6, dtype=torch.float64))
    assert_close(rows.std(1), torch.ones(6, dtype=torch.float64), rtol=1e-6, atol=0)

    def loss(student, teacher):
        return values(StandardizedKDSupervision(), student, teacher)['loss_logit']

    first = loss(student, teacher)
    assert_close(loss(5 * student - 1, 0.2 * teacher + 3), first, rtol=1e-6, atol=0)
    assert_close(loss(2 * teacher, teacher).item(), 0.0, rtol=0, atol=1e-9)
    soft = [(standardize(each) / 2).log_softmax(1) for each in (student, teacher)]
    assert_close(first, 9 * 4 * F.kl_div(*soft, reduction='batchmean', log_target=True))
    flat = torch.ones(1, 4, requires_grad=True)
    standardize(flat).sum().backward()
    assert standardize(flat).abs().max() == 0
    assert flat.grad.isfinite().all(), 'logits that are all equal'
