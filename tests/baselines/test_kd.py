"""KD: the closed form of the literature, its gradient, and its limit."""

import math

import pytest
import torch
from baseline_cases import network, outputs
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import KDSupervision
from mmcds.core.errors import ConfigError


def loss(student, teacher, **arguments):
    from dataclasses import replace

    supervision = KDSupervision(loss_weight=1.0, **arguments)
    found = outputs(images=len(student))
    found = replace(found, logits=student, teacher=replace(found.teacher, logits=teacher))
    return supervision(found)['loss_logit']


def test_two_classes_have_the_known_loss_and_gradient():
    student = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[4 * math.log(3), 0.0]], dtype=torch.float64)
    value = loss(student, teacher, temperature=4.0)
    assert_close(value.item(), 2.09299, rtol=0, atol=1e-5)
    assert_close(torch.autograd.grad(value, student)[0].tolist(), [[-1.0, 1.0]])


def test_a_constant_changes_nothing_and_equal_logits_are_at_zero():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    assert_close(loss(student + 3, teacher - 2), loss(student, teacher))
    assert_close(loss(teacher + 1, teacher).item(), 0.0, rtol=0, atol=1e-12)


def test_a_high_temperature_compares_centred_logits():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    difference = teacher - student
    expected = (difference - difference.mean(1, keepdim=True)).square().sum(1).mean() / (2 * 5)
    assert_close(loss(student, teacher, temperature=1e4), expected, rtol=1e-3, atol=0)


def test_it_is_the_divergence_times_the_squared_temperature():
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = 9 * F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction='batchmean')
    assert_close(loss(student, teacher, temperature=3.0), expected)


def test_other_classes_are_refused_when_the_model_is_built():
    from dataclasses import replace

    facts = network()
    with pytest.raises(ConfigError, match='4 classes and the student 3'):
        KDSupervision().build(replace(facts, teacher=replace(facts.teacher, num_classes=4)))
