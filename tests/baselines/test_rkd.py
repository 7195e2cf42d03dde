"""RKD: closed forms, invariances, an independent formula, and degenerate batches."""

import math

import pytest
import torch
from baseline_cases import network, outputs
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import RKDSupervision
from mmcds.baselines.rkd import angle_loss, angles, distance_loss, distances
from mmcds.core.errors import ConfigError

LINE = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]], dtype=torch.float64)


def test_three_points_on_a_line_against_a_triangle_have_the_known_losses():
    assert_close(distance_loss(LINE, TRIANGLE).item(), 0.375 / 9)
    assert_close(angle_loss(LINE, TRIANGLE).item(), 2.5 / 27)


def test_they_equal_the_definition_by_loops():
    rows = torch.randn(5, 3, dtype=torch.float64)
    plain = torch.stack([torch.stack([(a - b).norm() for b in rows]) for a in rows])
    assert_close(distances(rows), plain / plain[plain > 0].mean())
    expected = torch.zeros(5, 5, 5, dtype=torch.float64)
    for i in range(5):
        for j in range(5):
            for k in range(5):
                if i not in (j, k):
                    expected[i, j, k] = F.cosine_similarity(rows[j] - rows[i], rows[k] - rows[i], dim=0)
    assert_close(angles(rows), expected)


def test_both_are_blind_to_rotation_scale_and_place():
    student, teacher = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    turned = 3 * teacher @ torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0] + 5
    order = torch.randperm(6)
    for function in (distance_loss, angle_loss):
        assert_close(function(student, turned), function(student, teacher))
        assert_close(function(student[order], teacher[order]), function(student, teacher))
        assert_close(function(turned, teacher).item(), 0.0, rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences():
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda rows: distance_loss(rows, teacher), student)
    torch.autograd.gradcheck(lambda rows: angle_loss(rows, teacher), student)


@pytest.mark.parametrize('rows', [torch.ones(1, 4), torch.ones(5, 4), torch.tensor([[0.0], [0.0], [1.0], [2.0]])])
def test_one_image_and_equal_images_give_finite_losses_and_gradients(rows):
    student = rows.clone().requires_grad_()
    teacher = torch.randn(len(rows), 6)
    loss = distance_loss(student, teacher) + angle_loss(student, teacher)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad.abs().max() < 10
    if len(rows) == 1:
        assert loss.item() == 0


def test_angles_far_from_the_origin_keep_their_digits():
    rows = torch.randn(6, 8)
    assert_close(angles(rows + 100), angles(rows), rtol=0, atol=1e-3)


@pytest.mark.parametrize('function', [distance_loss, angle_loss])
def test_gradients_of_tight_clusters_keep_their_digits_in_float32(function):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 16, generator=generator).repeat_interleave(8, 0)
    student = centres + 1e-3 * torch.randn(32, 16, generator=generator)
    teacher = torch.randn(32, 16, generator=generator)

    def gradient(rows):
        rows = rows.clone().requires_grad_()
        return torch.autograd.grad(function(rows, teacher.to(rows.dtype)), rows)[0].double()

    exact = gradient(student.double())
    assert (gradient(student) - exact).norm() / exact.norm() < 2e-6


def test_two_equal_rows_are_a_millionth_apart_and_count_in_the_mean():
    rows = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    mean = (1e-6 + 1 + 1) / 3
    assert_close(distances(rows)[0], torch.tensor([0, 1e-6 / mean, 1 / mean], dtype=torch.float64))


def test_supervision_weighs_both_and_leaves_out_what_has_no_weight():
    found = outputs()
    supervision = RKDSupervision(distance_weight=2.0, angle_weight=3.0)
    supervision.build(network())
    values = supervision(found)
    assert_close(values['loss_distance'], 2 * distance_loss(found.pooled, found.teacher.pooled))
    assert_close(values['loss_angle'], 3 * angle_loss(found.pooled, found.teacher.pooled))
    assert set(RKDSupervision(angle_weight=0)(found)) == {'loss_distance'}
    unit = [F.normalize(rows, dim=1) for rows in (found.pooled, found.teacher.pooled)]
    assert_close(RKDSupervision(normalise=True)(found)['loss_angle'], 50 * angle_loss(*unit))


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match='distance_weight is -1 and angle_weight 50'):
        RKDSupervision(distance_weight=-1)
    with pytest.raises(ConfigError, match='nor both 0'):
        RKDSupervision(0, 0)
