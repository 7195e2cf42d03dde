"""DKS: closed forms, detached sources, directions, and the smoothing of the released code."""

import math

import pytest
import torch
from conftest import small_outputs
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import DKSSupervision
from mmcds.baselines.dks import ordered_pairs, smoothed_kl, synergy_loss
from mmcds.core.taps import NetworkInfo, TapInfo


def pair():
    a = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64, requires_grad=True)
    return a, torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)


def test_two_classifiers_have_the_known_loss_and_gradients():
    a, b = pair()
    assert_close(smoothed_kl(b, a).item(), 0.13081, rtol=0, atol=1e-5)
    assert_close(smoothed_kl(a, b).item(), 0.14384, rtol=0, atol=1e-5)
    label = torch.tensor([0])
    total = F.cross_entropy(a, label) + F.cross_entropy(b, label) + synergy_loss([a, b])
    total.backward()
    assert_close(total.item(), 1.25548, rtol=0, atol=1e-5)
    assert_close(a.grad, torch.zeros_like(a), rtol=0, atol=1e-7)
    assert_close(b.grad, torch.tensor([[-0.75, 0.75]], dtype=torch.float64), rtol=0, atol=1e-7)


def test_a_source_gets_no_gradient_but_its_change_counts():
    a, b = pair()
    loss = smoothed_kl(b, a)
    assert torch.autograd.grad(loss, a, allow_unused=True) == (None,)
    assert smoothed_kl(b, a + torch.tensor([[0.1, 0.0]])).item() != loss.item()


def test_the_order_of_the_classifiers_does_not_matter_and_equal_ones_are_at_zero():
    logits = [torch.randn(5, 7, dtype=torch.float64) for _ in range(3)]
    assert_close(synergy_loss(logits), synergy_loss([logits[2], logits[0], logits[1]]))
    assert_close(synergy_loss([logits[0]] * 3).item(), 0.0, rtol=0, atol=1e-12)
    assert len(ordered_pairs(3, 'dense')) == 6


def test_top_down_teaches_the_auxiliary_classifiers_only():
    logits = [torch.randn(5, 7, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    loss = synergy_loss(logits, 'top-down')
    expected = sum(F.kl_div(z.log_softmax(1), logits[2].softmax(1), reduction='batchmean') for z in logits[:2])
    assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    gradients = torch.autograd.grad(loss, logits, allow_unused=True)
    assert gradients[2] is None
    assert all(gradient.abs().max() > 0 for gradient in gradients[:2])


def test_the_squared_temperature_keeps_the_size_of_the_gradient():
    a, b = (torch.randn(5, 7, dtype=torch.float64) for _ in range(2))
    centred = (a - a.mean(1, keepdim=True)) - (b - b.mean(1, keepdim=True))
    limit = centred.square().sum(1).mean() / (2 * 7)
    assert_close(smoothed_kl(b, a, temperature=1e3, eps=1e-12), limit, rtol=1e-2, atol=0)


def test_certain_and_opposite_classifiers_stay_finite():
    a = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = synergy_loss([a, -a.detach()])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(a.grad).all()
    assert_close(loss.item(), 2 * math.log(1e8), rtol=1e-4, atol=0)


def bound(**arguments):
    supervision = DKSSupervision(taps=(0, 1), trunk='pool', **arguments)
    taps = {0: TapInfo(4, 1), 1: TapInfo(6, 2)}
    supervision.build(NetworkInfo('Net', taps, taps[1], 3))
    return supervision


@pytest.mark.parametrize('direction', ['dense', 'top-down'])
def test_supervision_adds_cross_entropy_and_synergy_with_the_networks_own_classifier(direction):
    supervision = bound(loss_weight=0.5, ce_weight=2.0, direction=direction)
    outputs = small_outputs({0: 4, 1: 6}, requires_grad=True)
    values = supervision(outputs)
    logits = supervision.classifiers([outputs.features[0], outputs.features[1]])
    assert_close(values['stage0.loss_ce'], 2 * F.cross_entropy(logits[0], outputs.labels))
    assert_close(values['loss_synergy'], 0.5 * synergy_loss([*logits, outputs.logits], direction))
    values['loss_synergy'].backward()
    assert (outputs.logits.grad is not None) == (direction == 'dense')
    assert all(parameter.grad is not None for parameter in supervision.parameters())
