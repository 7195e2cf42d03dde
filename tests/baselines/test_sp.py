"""SP: closed form, invariances, and batches of one."""

import math

import pytest
import torch
from baseline_cases import network, outputs
from torch.testing import assert_close

from mmcds.baselines import SPSupervision
from mmcds.baselines.sp import similarity_loss
from mmcds.core.errors import ConfigError


def test_two_images_have_the_known_loss():
    teacher, student = torch.eye(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    assert_close(similarity_loss(student, teacher).item(), (2 - math.sqrt(2)) / 2)


def test_it_is_blind_to_scale_rotation_and_order():
    student, teacher = torch.randn(6, 2, 3, 3, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    expected = similarity_loss(student, teacher)
    turned = 3 * teacher @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    order = torch.randperm(6)
    assert_close(similarity_loss(student, turned), expected)
    assert_close(similarity_loss(student[order], teacher[order]), expected)
    assert_close(similarity_loss(turned, teacher).item(), 0.0, rtol=0, atol=1e-12)


def test_it_depends_on_the_batch():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    halves = (similarity_loss(student[:3], teacher[:3]) + similarity_loss(student[3:], teacher[3:])) / 2
    assert abs(halves - similarity_loss(student, teacher)) > 1e-3


def test_one_image_is_at_zero_and_large_or_empty_features_stay_finite():
    assert similarity_loss(torch.randn(1, 4), torch.randn(1, 4)).item() == pytest.approx(0, abs=1e-12)
    student = torch.zeros(3, 4, requires_grad=True)
    similarity_loss(student, torch.full((3, 4), 300.0, dtype=torch.float16)).backward()
    assert torch.isfinite(student.grad).all()


def test_supervision_is_the_weighted_sum_over_taps():
    supervision = SPSupervision(taps=(2, 3), loss_weight=5.0)
    supervision.build(network())
    found = outputs()
    values = supervision(found)
    assert_close(values['stage3.loss_similarity'], 5 * similarity_loss(found.features[3], found.teacher.features[3]))
    assert len(values) == 2
    with pytest.raises(ConfigError, match='loss_weight is 0; give it a positive value'):
        SPSupervision(loss_weight=0)
