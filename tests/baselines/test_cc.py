"""CC: both forms by their closed values, the kernel against the Gaussian, and the collapse that it avoids."""

import math

import pytest
import torch
from baseline_cases import network, outputs
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import CCSupervision
from mmcds.baselines.cc import adjacent_loss, gaussian_kernel, kernel_loss
from mmcds.core.errors import ConfigError


def test_the_kernel_of_two_images_has_the_known_loss():
    student = torch.eye(2, dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert_close(kernel_loss(student, teacher).item(), 0.126629, rtol=0, atol=1e-6)


@pytest.mark.parametrize('cosine, expected', [(1.0, 0.952577), (0.0, 0.449329), (-1.0, 0.233651)])
def test_the_expansion_has_the_known_values(cosine, expected):
    rows = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)
    assert_close(gaussian_kernel(rows)[0, 1].item(), expected, rtol=0, atol=1e-6)


def test_a_long_expansion_is_the_gaussian_kernel():
    rows = F.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1)
    expected = torch.exp(-0.7 * torch.cdist(rows, rows) ** 2)
    assert_close(gaussian_kernel(rows, gamma=0.7, order=25), expected)


def test_the_kernel_is_blind_to_rotation_length_and_order():
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64)
    turned = 2 * student @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    order = torch.randperm(6)
    assert_close(kernel_loss(turned, teacher), kernel_loss(student, teacher))
    assert_close(kernel_loss(student[order], teacher[order]), kernel_loss(student, teacher))


def test_the_adjacent_form_depends_on_the_order_as_the_benchmark_code_does():
    delta = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    zero = torch.zeros_like(delta)
    assert adjacent_loss(delta, zero).item() == 1.0
    assert adjacent_loss(zero, delta[[1, 0, 2]]).item() == 0.5


def test_one_image_is_at_zero():
    rows = torch.randn(2, 1, 4)
    assert kernel_loss(*rows).item() == pytest.approx(0, abs=1e-12)
    assert adjacent_loss(*rows).item() == 0


@pytest.mark.parametrize('mode, function', [('kernel', kernel_loss), ('adjacent', adjacent_loss)])
def test_supervision_compares_embeddings_of_equal_width(mode, function):
    supervision = CCSupervision(mode=mode, loss_weight=3.0, out_channels=8)
    supervision.build(network())
    supervision.double()
    found = outputs()
    value = supervision(found)['loss_correlation']
    rows = supervision.student_embedding(found.pooled), supervision.teacher_embedding(found.teacher.pooled)
    assert rows[0].shape == rows[1].shape == (5, 8)
    assert_close(value, 3 * function(*rows))


def test_the_teachers_embedding_is_trained_on_request_only():
    for train in (False, True):
        supervision = CCSupervision(train_teacher_embedding=train)
        supervision.build(network())
        supervision.double()(outputs())['loss_correlation'].backward()
        assert (supervision.teacher_embedding.weight.grad is not None) == train
        assert supervision.student_embedding.weight.grad.abs().max() > 0


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="mode is 'rbf'; choose one of kernel, adjacent"):
        CCSupervision(mode='rbf')
    with pytest.raises(ConfigError, match='gamma is 0; give it a positive value'):
        CCSupervision(gamma=0)
