"""Closed forms of Equations 7 to 9, and what the three supervisions check and return."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import StepOutputs
from mmcds.core.taps import NetworkInfo, TapInfo
from mmcds.methods import EmbeddingDistillation, FeatureDistillation, LogitDistillation
from mmcds.methods.distillation import distance, kl_divergence, soft_cross_entropy


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(*shape, seed=0):
    return F.normalize(rows(*shape, seed=seed), dim=-1)


def outputs(embeddings=None, features=None, logits=None, teacher=None, views=2, images=3):
    return StepOutputs(
        num_views=views,
        features=features or {},
        pooled=torch.zeros(views * images, 1),
        logits=torch.zeros(views * images, 2) if logits is None else logits,
        labels=torch.zeros(images, dtype=torch.int64),
        sample_idx=None,
        progress=0.0,
        embeddings={'cds': embeddings or {}},
        teacher=teacher,
    )


def network(widths, strides=(1, 2), num_classes=2, teacher=None):
    taps = {tap: TapInfo(width, stride) for tap, (width, stride) in enumerate(zip(widths, strides, strict=True))}
    return NetworkInfo(
        name='Net',
        taps=taps,
        final=taps[len(taps) - 1],
        num_classes=num_classes,
        embeddings={'cds': dict(enumerate(widths))},
        teacher=teacher,
    )


# ---- distance


def test_the_frobenius_norm_is_taken_over_the_whole_matrix():
    student, teacher = rows(6, 4), rows(6, 4, seed=1)
    expected = math.sqrt(
        sum((a - b) ** 2 for a, b in zip(student.ravel().tolist(), teacher.ravel().tolist(), strict=True))
    )
    assert_close(distance(student, teacher, 'frobenius').item(), expected)
    assert_close(distance(student, teacher, 'frobenius'), torch.dist(student, teacher, p=2))
    assert_close(distance(student, teacher, 'mse_row').item(), expected**2 / 6)


def test_random_unit_rows_are_the_root_of_twice_their_number_apart():
    assert_close(distance(unit(256, 512), unit(256, 512, seed=1), 'frobenius').item(), 22.6, rtol=0, atol=0.2)


@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e6])
def test_the_gradient_of_the_frobenius_norm_has_length_one_at_any_distance(scale):
    student = rows(6, 4).mul(scale).requires_grad_()
    distance(student, torch.zeros(6, 4), 'frobenius').backward()
    assert_close(student.grad.norm().item(), 1.0)


@pytest.mark.parametrize('mode', ['frobenius', 'mse_row'])
def test_equal_rows_are_at_distance_zero_with_gradient_zero(mode):
    student = unit(6, 4).requires_grad_()
    loss = distance(student, student.detach().clone(), mode)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize('mode', ['frobenius', 'mse_row'])
def test_distances_pass_gradcheck_and_are_float32_or_better(mode):
    assert torch.autograd.gradcheck(lambda z: distance(z, rows(3, 2, seed=1), mode), rows(3, 2).requires_grad_())
    half = distance(torch.full((4, 8), 300.0, dtype=torch.float16), torch.zeros(4, 8, dtype=torch.float16), mode)
    assert half.dtype == torch.float32
    assert_close(half.item(), 300 * math.sqrt(32) if mode == 'frobenius' else 8 * 300.0**2)


# ---- logits


def test_softened_divergence_has_the_known_value_and_gradient():
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[4 * math.log(3), 0.0]], dtype=torch.float64)
    loss = 16 * kl_divergence(student, teacher, temperature=4.0)
    loss.backward()
    assert_close(loss.item(), 2.09299, rtol=0, atol=1e-5)
    assert_close(student.grad, torch.tensor([[-1.0, 1.0]], dtype=torch.float64))


def test_soft_cross_entropy_is_the_divergence_plus_the_entropy_of_the_teacher():
    student, teacher = rows(5, 7), rows(5, 7, seed=1)
    p = (teacher / 3).softmax(1)
    assert_close(
        soft_cross_entropy(student, teacher, 3.0), kl_divergence(student, teacher, 3.0) - (p * p.log()).sum(1).mean()
    )
    gradients = []
    for function in (soft_cross_entropy, kl_divergence):
        leaf = student.clone().requires_grad_()
        function(leaf, teacher, 3.0).backward()
        gradients.append(leaf.grad)
    assert_close(*gradients)


def test_soft_cross_entropy_equals_the_hosts_cross_entropy_with_soft_targets():
    student, teacher = rows(5, 7), rows(5, 7, seed=1)
    assert_close(soft_cross_entropy(student, teacher, 2.0), F.cross_entropy(student / 2, (teacher / 2).softmax(1)))


def test_equal_logits_have_divergence_zero_and_shifts_change_nothing():
    student = rows(5, 7)
    assert_close(kl_divergence(student, student, 3.0).item(), 0.0, rtol=0, atol=1e-12)
    assert_close(kl_divergence(student + 5, rows(5, 7, seed=1) - 2), kl_divergence(student, rows(5, 7, seed=1)))


@pytest.mark.parametrize('function', [soft_cross_entropy, kl_divergence])
def test_large_logits_stay_finite(function):
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = function(student, -student.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


# ---- EmbeddingDistillation


def embedding(own=(4, 4), others=(4, 4), **arguments):
    supervision = EmbeddingDistillation(**arguments)
    supervision.build(network(own, teacher=network(others)))
    return supervision.double()


def test_equal_widths_need_no_adapter_and_both_views_count():
    supervision = embedding(loss_weight=0.5)
    own, others = ({0: unit(2, 3, 4, seed=seed), 1: unit(2, 3, 4, seed=seed + 1)} for seed in (0, 2))
    assert list(supervision.parameters()) == []
    losses = supervision(outputs(own, teacher=outputs(others)))
    assert list(losses) == ['stage0.loss_embedding', 'stage1.loss_embedding']
    assert_close(losses['stage1.loss_embedding'], 0.5 * (own[1] - others[1]).norm())


def test_swapping_the_views_of_both_changes_nothing():
    supervision = embedding()
    own, others = ({0: unit(2, 3, 4, seed=seed), 1: unit(2, 3, 4, seed=seed + 1)} for seed in (0, 2))
    swapped = [{tap: value.flip(0) for tap, value in found.items()} for found in (own, others)]
    assert_close(
        supervision(outputs(swapped[0], teacher=outputs(swapped[1]))),
        supervision(outputs(own, teacher=outputs(others))),
    )


def test_other_widths_are_adapted_by_a_biased_layer_whose_output_is_not_normalised():
    supervision = embedding(own=(4, 6), others=(6, 6), mode='mse_row', loss_weight=2.0)
    assert [name for name, _ in supervision.named_parameters()] == ['adapters.stage0.weight', 'adapters.stage0.bias']
    own, others = {0: unit(2, 3, 4), 1: unit(2, 3, 6)}, {0: unit(2, 3, 6, seed=1), 1: unit(2, 3, 6)}
    losses = supervision(outputs(own, teacher=outputs(others)))
    layer = supervision.adapters['stage0']
    mapped = own[0].reshape(6, 4) @ layer.weight.T + layer.bias
    assert_close(losses['stage0.loss_embedding'], 2 * (mapped - others[0].reshape(6, 6)).square().sum(1).mean())
    assert losses['stage1.loss_embedding'].item() == 0


def test_the_gradient_reaches_the_students_embedding_with_length_lambda():
    supervision, own = embedding(loss_weight=0.3), {0: unit(2, 3, 4).requires_grad_(), 1: unit(2, 3, 4)}
    supervision(outputs(own, teacher=outputs({0: unit(2, 3, 4, seed=5), 1: unit(2, 3, 4)})))[
        'stage0.loss_embedding'
    ].backward()
    assert_close(own[0].grad.norm().item(), 0.3)


def test_taps_can_be_paired_by_hand():
    supervision = embedding(taps=(1,), teacher_taps=(0,))
    own, others = {0: unit(2, 3, 4), 1: unit(2, 3, 4, seed=1)}, {0: unit(2, 3, 4, seed=1), 1: unit(2, 3, 4)}
    assert supervision(outputs(own, teacher=outputs(others))) == {'stage1.loss_embedding': 0}


@pytest.mark.parametrize(
    'own, others, arguments, message',
    [
        (network((4, 4)), network((4, 4, 4), (1, 2, 4)), {}, r'student has taps \(0, 1\) and the teacher \(0, 1, 2\)'),
        (network((4, 4)), network((4, 4), (4, 8)), {}, "student's stage0 has stride 1 and the teacher's stage0 4"),
        (network((4, 4)), network((4, 4)), dict(taps=(2,)), 'taps names 2, but embeddings exist for'),
        (network((4, 4)), network((4, 4)), dict(taps=(0,), teacher_taps=(0, 1)), 'they do not correspond'),
    ],
)
def test_taps_that_do_not_correspond_are_refused(own, others, arguments, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddingDistillation(**arguments).build(replace(own, teacher=others))


# ---- LogitDistillation


def test_logits_of_view_zero_alone_are_distilled_and_agreement_is_watched():
    supervision = LogitDistillation(temperature=3.0, loss_weight=0.5)
    student, teacher = rows(6, 2), rows(6, 2, seed=1)
    values = supervision(outputs(logits=student, teacher=outputs(logits=teacher)))
    assert_close(values['loss_logit'], 0.5 * soft_cross_entropy(student[:3], teacher[:3], 3.0))
    assert_close(
        values['teacher_agreement'].item(),
        (student[:3].argmax(1) == teacher[:3].argmax(1)).double().mean().item(),
        check_dtype=False,
    )


def test_the_square_of_the_temperature_and_all_views_are_options():
    supervision = LogitDistillation(temperature=2.0, mode='kl', scale_by_temperature=True, views=(0, 1))
    student, teacher = rows(6, 2), rows(6, 2, seed=1)
    assert_close(
        supervision(outputs(logits=student, teacher=outputs(logits=teacher)))['loss_logit'],
        4 * kl_divergence(student, teacher, 2.0),
    )
    assert supervision.min_views == 2


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(ConfigError, match='the teacher has 3 classes and the student 2'):
        LogitDistillation().build(network((4, 4), teacher=network((4, 4), num_classes=3)))


# ---- FeatureDistillation


def test_features_of_other_width_and_size_are_adapted_and_pooled():
    supervision = FeatureDistillation(taps=(0, 1), loss_weight=0.5)
    supervision.build(network((4, 6), teacher=network((8, 6))))
    supervision.double()
    assert {name: tuple(value.shape) for name, value in supervision.named_parameters()} == {
        'adapters.stage0.weight': (8, 4, 1, 1)
    }
    own, others = {0: rows(6, 4, 8, 8), 1: rows(6, 6, 2, 2)}, {0: rows(6, 8, 4, 4), 1: rows(6, 6, 4, 4)}
    losses = supervision(outputs(features=own, teacher=outputs(features=others)))
    mapped = F.avg_pool2d(torch.einsum('oc,nchw->nohw', supervision.adapters['stage0'].weight[..., 0, 0], own[0]), 2)
    assert_close(losses['stage0.loss_feature'], 0.5 * (mapped - others[0]).norm())
    assert_close(losses['stage1.loss_feature'], 0.5 * (own[1] - F.avg_pool2d(others[1], 2)).norm())


def test_equal_features_are_at_distance_zero():
    supervision = FeatureDistillation(taps=(0,))
    supervision.build(network((4, 4), teacher=network((4, 4))))
    feature = rows(6, 4, 3, 3)
    assert supervision(outputs(features={0: feature}, teacher=outputs(features={0: feature}))) == {
        'stage0.loss_feature': 0
    }


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: EmbeddingDistillation(mode='l2'), "EmbeddingDistillation: mode is 'l2'; choose one of frobenius"),
        (lambda: FeatureDistillation((0,), mode='l2'), "FeatureDistillation: mode is 'l2'"),
        (lambda: LogitDistillation(mode='mse'), "mode is 'mse'; choose one of soft_ce, kl"),
        (lambda: EmbeddingDistillation(loss_weight=0), 'loss_weight is 0; give it a positive value'),
        (lambda: LogitDistillation(temperature=0), 'temperature is 0; give it a positive value'),
        (lambda: LogitDistillation(views=()), r'views is \(\); name at least one'),
        (lambda: FeatureDistillation(()), 'taps is empty'),
        (lambda: FeatureDistillation((0, 1), (0,)), r'student has taps \(0, 1\) and the teacher \(0,\)'),
    ],
)
def test_wrong_hyper_parameters_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()


def test_needs_are_declared():
    assert all(kind.needs_teacher for kind in (EmbeddingDistillation, LogitDistillation, FeatureDistillation))
    supervision = EmbeddingDistillation(student='a', teacher='b')
    assert (supervision.embeddings_of, supervision.teacher_embeddings_of) == (('a',), ('b',))
    assert FeatureDistillation((0,), (1,)).teacher_taps == (1,)
