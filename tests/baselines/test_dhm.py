"""DHM: that its released loss is the one of DKS, and what the random choice does."""

import torch
from conftest import small_outputs
from torch.testing import assert_close

from mmcds.baselines import DHMSupervision, DKSSupervision
from mmcds.baselines.dhm import draw_without_gradient
from mmcds.core.taps import NetworkInfo, TapInfo


def bound(kind, **arguments):
    torch.manual_seed(0)
    supervision = kind(taps=(0, 1), trunk='pool', **arguments)
    taps = {0: TapInfo(4, 1), 1: TapInfo(6, 2)}
    supervision.build(NetworkInfo('Net', taps, taps[1], 3))
    return supervision


def losses_and_gradients(supervision):
    torch.manual_seed(1)
    outputs = small_outputs({0: 4, 1: 6}, requires_grad=True)
    values = supervision(outputs)
    sum(value for key, value in values.items() if 'loss' in key).backward()
    return values, [outputs.logits.grad, *(parameter.grad for parameter in supervision.parameters())]


def test_with_the_same_heads_it_equals_dks():
    ours, other = (losses_and_gradients(bound(kind)) for kind in (DHMSupervision, DKSSupervision))
    assert_close(ours, other)


def test_a_random_choice_leaves_the_value_and_takes_gradients_away(monkeypatch):
    monkeypatch.setattr('mmcds.baselines.dhm.draw_without_gradient', lambda pairs: frozenset(range(pairs)))
    values, gradients = losses_and_gradients(bound(DHMSupervision, stochastic=True))
    dense, all_gradients = losses_and_gradients(bound(DHMSupervision))
    assert_close(values, dense)
    assert gradients[0] is None, 'nothing but the divergences reaches the logits of the network here'
    assert all_gradients[0].abs().max() > 0
    plain = losses_and_gradients(bound(DHMSupervision, loss_weight=0.0))[1]
    assert_close(gradients[1:], plain[1:])


def test_the_choice_follows_the_seed_and_takes_every_number_between_none_and_nearly_all():
    torch.manual_seed(0)
    draws = [draw_without_gradient(6) for _ in range(500)]
    torch.manual_seed(0)
    assert draws[:5] == [draw_without_gradient(6) for _ in range(5)]
    assert {len(draw) for draw in draws} == {0, 1, 2, 3, 4, 5}
    assert set().union(*draws) == set(range(6))
