"""DKD, DIST, NKD, USKD, ReviewKD and KD on standardised logits: closed forms, identities, invariances."""

import math
from dataclasses import replace

import pytest
import torch
from baseline_cases import STUDENT, TEACHER, network, outputs, total
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import (
    DISTSupervision,
    DKDSupervision,
    NKDSupervision,
    ReviewKDSupervision,
    StandardizedKDSupervision,
    USKDSupervision,
)
from mmcds.baselines.dist import correlation_distance
from mmcds.baselines.dkd import decoupled_divergences
from mmcds.baselines.nkd import normalized_terms
from mmcds.baselines.reviewkd import Fusion, context_loss
from mmcds.baselines.standardized_kd import standardize
from mmcds.baselines.uskd import self_terms, shares_of_others
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
@pytest.mark.parametrize('kind', [DKDSupervision, ReviewKDSupervision])
def test_a_warmup_is_a_share_of_the_run(kind, warmup):
    with pytest.raises(ConfigError, match=rf'{kind.__name__}: warmup is .*give a share of the run'):
        kind(warmup=warmup)


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


@pytest.mark.parametrize('side', [1, 2, 3, 4, 8])
def test_the_context_of_review_is_what_is_left_at_smaller_sizes(side):
    """A constant difference is left everywhere; stripes of mean 0 are gone at every smaller size."""
    teacher = torch.randn(2, 3, side, side, dtype=torch.float64)
    assert_close(context_loss(teacher + 3, teacher).item(), 9.0)
    if side % 2 == 0:
        stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(side // 2)
        weights = {2: 1 + 1 / 2, 4: 1 + 1 / 2 + 1 / 4, 8: 1 + 1 / 2 + 1 / 4 + 1 / 8}[side]
        assert_close(context_loss(teacher + stripes, teacher).item(), 1 / weights)


def test_the_context_of_review_by_hand():
    """Halves that differ by 1 and 3 in a map of 4 x 4: 5 at sizes 4 and 2, 4 for the whole."""
    student = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    student[..., 2:] = 3
    assert_close(context_loss(student, 0 * student).item(), (5 + 5 / 2 + 4 / 4) / (1 + 1 / 2 + 1 / 4))
    row = student[..., :1, :]
    assert context_loss(row, 0 * row).item() == 5, 'nothing is smaller than the smaller side'


def test_a_fusion_is_a_sum_with_weights_of_every_place():
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, deepest=False).double().eval()
    maps, deeper = (torch.randn(2, width, side, side, dtype=torch.float64) for width, side in ((3, 4), (4, 2)))
    with torch.no_grad():
        fusion.attend.weight.zero_()
        fusion.attend.bias.copy_(torch.tensor([math.log(3), -math.log(3)]))  # weights 3/4 and 1/4
    predicted, mixed = fusion(maps, deeper, torch.Size((8, 8)))
    larger = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = (3 * fusion.reduce(maps) + larger) / 4
    assert_close(mixed, expected.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert_close(predicted, fusion.expand(mixed))
    with torch.no_grad():
        fusion.attend.weight.normal_()
    first = fusion(maps, deeper, torch.Size((4, 4)))[1]
    assert_close(fusion(maps[..., :2, :], deeper[..., :1, :], torch.Size((2, 4)))[1], first[..., :2, :])


def review(**arguments):
    torch.manual_seed(0)
    supervision = ReviewKDSupervision(**{'warmup': 0, **arguments})
    supervision.build(network())
    return supervision.double().eval()


def test_review_goes_from_the_deepest_level_to_the_shallowest():
    supervision, found = review(loss_weight=7.0), outputs()
    values, mixed = supervision(found), None
    levels = [(f'stage{tap}', found.features[tap], found.teacher.features[tap]) for tap in range(4)]
    levels.append(('pooled', found.pooled[..., None, None], found.teacher.pooled[..., None, None]))
    for name, student, teacher in levels[::-1]:
        predicted, mixed = supervision.fusions[name](student, mixed, teacher.shape[2:])
        assert_close(values[f'{name}.loss_review'], 7 * context_loss(predicted, teacher))
    assert len(values) == 5

    def reached(name):
        places = [*found.features.values(), found.pooled]
        own = torch.autograd.grad(values[f'{name}.loss_review'], places, allow_unused=True, retain_graph=True)
        return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in own]

    for level, (name, *_) in enumerate(levels):
        assert reached(name) == [place >= level for place in range(5)]
    total(values).backward()
    assert all(each.grad is None for each in [*found.teacher.features.values(), found.teacher.pooled])


def test_review_has_the_widths_of_the_networks_and_takes_other_pairs_of_stages():
    fusions = review().fusions
    widths = [
        (each.reduce[0].in_channels, each.expand[0].in_channels, each.expand[0].out_channels)
        for each in fusions.values()
    ]
    expected = [(ours, 10, theirs) for (ours, _), (theirs, _) in zip(STUDENT, TEACHER, strict=True)]
    assert widths == [*expected, (10, 10, 12)]
    assert [each.attend is None for each in fusions.values()] == [False] * 4 + [True]
    values = review(taps=(1, 2), teacher_taps=(3, 0), mid_channels=2)(outputs())
    assert set(values) == {'stage1.loss_review', 'stage2.loss_review', 'pooled.loss_review'}
    with pytest.raises(ConfigError, match='they do not correspond'):
        ReviewKDSupervision(taps=(0, 1), teacher_taps=(0,))


def test_review_grows_over_the_first_part_of_a_run():
    found = outputs()
    whole = review(warmup=20 / 240)(found)
    for progress, share in ((0.0, 0.0), (10 / 240, 0.5), (20 / 240, 1.0)):
        values = review(warmup=20 / 240)(replace(found, progress=progress))
        assert_close(total(values), share * total(whole))


def one_by_one(student, weak, labels):
    """The terms of USKD, a row and a class at a time."""
    rows, known = [], [row for row, label in enumerate(labels) if label >= 0]

    def softmax(scores):
        powers = [math.exp(score) for score in scores]
        return [power / sum(powers) for power in powers]

    s, w = ([softmax(row) for row in each.tolist()] for each in (student, weak))
    mean = sum(s[row][labels[row]] ** 2 for row in known) / len(known)
    for row in known:
        y, classes = int(labels[row]), range(student.shape[1])
        scores = [
            w[row][i] / (1 - w[row][y] + 1e-6) + math.log(s[row][i]) / (1 - math.log(s[row][y]) + 1e-6)
            for i in classes
        ]
        parts = {i: 1 / (1 + sum(scores[other] > scores[i] for other in classes)) for i in classes if i != y}
        target = -(1 + s[row][y] ** 2 - mean) * math.log(s[row][y])
        among = {i: math.log(s[row][i] / (1 - s[row][y])) for i in parts}
        others = -sum(part * among[i] for i, part in parts.items()) / sum(parts.values())
        smooth = -sum((0.9 * (i == y) + 0.1 / len(classes)) * math.log(w[row][i]) for i in classes)
        rows.append((target, others, smooth))
    return torch.tensor(rows, dtype=torch.float64).T


def test_uskd_is_the_sum_over_classes():
    (student, weak), labels = logits(rows=7), torch.tensor([0, -1, 2, 3, 4, -1, 1])
    terms = torch.stack(self_terms(student, weak, labels))
    assert_close(terms[:, labels >= 0], one_by_one(student, weak, labels))


def test_shares_of_others_by_hand():
    """If the right class has rank 2 of 4, then 1, 1/3 and 1/4 are left; if rank 1, then 1/2, 1/3 and 1/4."""
    student = torch.tensor([[2.0, 3.0, 0.0, 1.0]], dtype=torch.float64)
    shares = shares_of_others(student, torch.zeros_like(student), torch.tensor([0]))
    assert_close(shares[0], torch.tensor([0, 12, 3, 4], dtype=torch.float64) / 19)
    shares = shares_of_others(student, torch.zeros_like(student), torch.tensor([1]))
    assert_close(shares[0], torch.tensor([6, 0, 3, 4], dtype=torch.float64) / 13)
    weak = torch.tensor([[0.0, 0.0, 9.0, 0.0]], dtype=torch.float64)  # turns the order of the last two
    shares = shares_of_others(student, weak, torch.tensor([1]))
    assert_close(shares[0], torch.tensor([6, 0, 4, 3], dtype=torch.float64) / 13)
    sure = torch.tensor([[0.0, 1000.0, 0.0, 0.0]], dtype=torch.float64)  # leaves nothing to the others
    shares = shares_of_others(student, sure, torch.tensor([1]))
    assert_close(shares[0], torch.tensor([6, 0, 3, 4], dtype=torch.float64) / 13)


def test_uskd_leaves_alone_what_it_must():
    """Factor and shares have no gradient; the weak classifier learns from its own term alone."""
    student, weak = (each.requires_grad_() for each in logits())
    labels = torch.arange(6) % 5
    right, others, own = self_terms(student, weak, labels)
    p = student.detach().softmax(1)
    square = p.gather(1, labels[:, None]) ** 2
    gradient = torch.autograd.grad(right.sum(), student, retain_graph=True)[0]
    assert_close(gradient, (1 + square - square.mean()) * (p - F.one_hot(labels, 5)))
    gradient = torch.autograd.grad(others.sum(), student, retain_graph=True)[0]
    among = p * (1 - F.one_hot(labels, 5)) / (1 - square.sqrt())
    assert_close(gradient, among - shares_of_others(student, weak, labels))
    assert torch.autograd.grad((right + others).sum(), weak, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(own.sum(), student, allow_unused=True)[0] is None


def uskd(**arguments):
    torch.manual_seed(0)
    supervision = USKDSupervision(**arguments)
    supervision.build(network(teacher=None))
    return supervision.double()


def test_uskd_weighs_its_terms_and_leaves_out_what_has_no_label():
    supervision = uskd(alpha=2.0, beta=3.0, mu=5.0)
    found = replace(outputs(teacher=None), labels=torch.tensor([0, -1, 2, 1, -1]))
    values = supervision(found)
    linear = supervision.classifiers.heads['stage2'][-1]
    weak = linear(found.features[2].mean((2, 3)))
    expected = one_by_one(found.logits, weak, found.labels).mean(1) * torch.tensor([2.0, 3.0, 5.0])
    assert_close(torch.stack([value for name, value in values.items() if 'loss' in name]), expected)
    none = supervision(replace(found, labels=torch.full((5,), -1)))
    assert total(none) == 0
    total(none).backward()
    assert found.logits.grad.abs().max() == 0
    assert not supervision.needs_teacher


def test_the_weak_loss_of_uskd_reaches_its_stage_and_none_after_it():
    found = outputs(teacher=None)
    uskd()(found)['stage2.loss_weak'].backward()
    assert found.features[2].grad.abs().max() > 0
    assert all(found.features[tap].grad is None for tap in (0, 1, 3))
    with pytest.raises(ConfigError, match=r'taps is \(1, 2\); name a single stage'):
        USKDSupervision(taps=(1, 2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_uskd_of_logits_in_half_precision_is_that_of_the_rounded_logits(dtype):
    student, weak = (30 * each.to(dtype) for each in logits())
    labels = torch.arange(6) % 5
    rounded = self_terms(student.double(), weak.double(), labels)
    for half, exact in zip(self_terms(student, weak, labels), rounded, strict=True):
        assert half.dtype == torch.float32
        assert half.isfinite().all()
        assert_close(half.double(), exact, rtol=1e-4, atol=1e-4)
