"""DSN: closed forms of Equation 2, weight and decay, and that alpha 0 is plain training."""

import math

import pytest
import torch
from conftest import small_outputs
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import DSNSupervision
from mmcds.baselines.dsn import dsn_losses
from mmcds.core.taps import NetworkInfo, TapInfo


def test_constant_logits_cost_the_logarithm_of_the_number_of_classes():
    logits, labels = [torch.full((6, 100), 7.0)] * 3, torch.arange(6)
    companions = dsn_losses(logits, labels)
    assert_close(sum(companions).item(), 3 * math.log(100))
    assert_close((F.cross_entropy(logits[0], labels) + sum(companions)).item(), 18.4207, rtol=0, atol=1e-4)


def test_a_classifier_below_the_threshold_is_left_alone():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    (plain,) = dsn_losses([logits], torch.tensor([0, 1]))
    (below,) = dsn_losses([logits], torch.tensor([0, 1]), threshold=plain.item() + 0.1)
    (above,) = dsn_losses([logits], torch.tensor([0, 1]), threshold=plain.item() - 0.1)
    assert below.item() == 0
    assert_close(above.item(), 0.1)
    assert torch.autograd.grad(below, logits)[0].abs().max() == 0


def bound(**arguments):
    supervision = DSNSupervision(taps=(0, 1), trunk='pool', **arguments)
    taps = {0: TapInfo(4, 1), 1: TapInfo(6, 2)}
    supervision.build(NetworkInfo('Net', taps, taps[1], 3))
    return supervision


def test_losses_are_weighted_and_the_trained_classifiers_accuracy_is_watched():
    supervision = bound(loss_weight=0.3)
    outputs = small_outputs({0: 4, 1: 6})
    values = supervision(outputs)
    assert list(values) == ['stage0.accuracy', 'stage1.accuracy', 'stage0.loss_ce', 'stage1.loss_ce']
    logits = supervision.classifiers([outputs.features[0], outputs.features[1]])
    assert_close(values['stage1.loss_ce'], 0.3 * F.cross_entropy(logits[1], outputs.labels))
    assert_close(values['stage0.accuracy'].item(), 100 * (logits[0].argmax(1) == outputs.labels).float().mean().item())


@pytest.mark.parametrize('progress, factor', [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)])
def test_linear_decay_takes_the_companions_away(progress, factor):
    outputs = small_outputs({0: 4, 1: 6}, progress=progress)
    supervision = bound(decay='linear')
    constant = bound()
    constant.load_state_dict(supervision.state_dict())
    assert_close(supervision(outputs)['stage0.loss_ce'], factor * constant(outputs)['stage0.loss_ce'])


def test_alpha_zero_gives_no_gradient_to_heads_or_features():
    supervision, outputs = bound(loss_weight=0.0), small_outputs({0: 4, 1: 6}, requires_grad=True)
    sum(value for key, value in supervision(outputs).items() if 'loss' in key).backward()
    for value in (*supervision.parameters(), *outputs.features.values()):
        assert value.grad.abs().max() == 0


def test_the_chosen_views_are_classified():
    supervision, outputs = bound(views=(1,)), small_outputs({0: 4, 1: 6}, views=2)
    assert supervision.min_views == 2
    logits = supervision.classifiers([outputs.features[0][5:], outputs.features[1][5:]])
    assert_close(supervision(outputs)['stage0.loss_ce'], F.cross_entropy(logits[0], outputs.labels))
