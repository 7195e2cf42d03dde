"""AT: closed forms of both modes, and what attention does not see."""

import math

import pytest
import torch
from baseline_cases import network, outputs
from torch.testing import assert_close

from mmcds.baselines import ATSupervision
from mmcds.baselines.at import attention, attention_loss
from mmcds.core.errors import ConfigError


def one_hot(place):
    maps = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    maps.view(-1)[place] = 3.0
    return maps


def test_attention_at_two_places_has_the_known_loss():
    assert_close(attention_loss(one_hot(0), one_hot(3)).item(), 0.5)
    assert_close(attention_loss(one_hot(0), one_hot(3), mode='norm').item(), math.sqrt(2) / 2)


def test_the_squared_form_is_the_norm_squared_times_four_over_the_pixels():
    student, teacher = torch.randn(2, 1, 6, 3, 3, dtype=torch.float64)
    norm = attention_loss(student, teacher, mode='norm')
    assert_close(attention_loss(student, teacher), norm**2 * 4 / 9)


def test_scale_order_and_number_of_channels_do_not_matter():
    student, teacher = torch.randn(2, 4, 6, 3, 3, dtype=torch.float64)
    expected = attention_loss(student, teacher)
    assert_close(attention_loss(student * 5, teacher * 0.1), expected)
    assert_close(attention_loss(student[:, torch.randperm(6)], teacher), expected)
    assert_close(attention_loss(torch.cat([student] * 2, 1), teacher), expected)
    assert_close(attention_loss(student, student * 2).item(), 0.0, rtol=0, atol=1e-12)


def test_the_larger_map_is_averaged_before_it_is_squared():
    student, teacher = torch.randn(2, 5, 8, 8, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    pooled = student.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    assert_close(attention_loss(student, teacher), attention_loss(pooled, teacher))
    assert_close(attention_loss(teacher, student), attention_loss(teacher, pooled))


def test_an_empty_map_and_large_values_stay_finite():
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = attention_loss(student, torch.randn(2, 3, 2, 2))
    loss.backward()
    assert torch.isfinite(student.grad).all()
    assert attention(torch.zeros(1, 3, 2, 2)).tolist() == [[0.0] * 4]
    half = torch.full((1, 3, 2, 2), 3e4, dtype=torch.float16)  # its square overflows
    assert_close(attention_loss(half, torch.ones(1, 1, 2, 2)).item(), 0.0, rtol=0, atol=1e-6)


def test_supervision_adds_the_weighted_loss_of_every_pair():
    supervision = ATSupervision(taps=(0, 2), teacher_taps=(1, 3), loss_weight=10.0)
    supervision.build(network())
    found = outputs()
    values = supervision(found)
    assert_close(values['stage2.loss_attention'], 10 * attention_loss(found.features[2], found.teacher.features[3]))
    assert set(values) == {'stage0.loss_attention', 'stage2.loss_attention'}


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="mode is 'paper'; choose one of squared, norm"):
        ATSupervision(mode='paper')
    with pytest.raises(ConfigError, match='power is 0; give it a positive value'):
        ATSupervision(power=0)
