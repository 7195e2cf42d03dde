"""ONE: the ensemble, its ramp, branches of any staged backbone, and what is tested and exported."""

import math
from dataclasses import replace

import pytest
import torch
from baseline_cases import total
from conftest import build_on_meta
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.baselines import ONESupervision
from mmcds.baselines.one import ensemble_loss, modules_after, ramp_up
from mmcds.core.errors import ConfigError


def test_equal_branches_differ_from_their_ensemble_by_the_smoothing_alone():
    logits = torch.randn(4, 100, dtype=torch.float64)
    loss = ensemble_loss(torch.stack([logits] * 3), logits)
    assert 0 < loss.item() <= 3 * 9 * 100 * 1e-7 * 1.01


def test_it_is_the_sum_of_the_divergences_and_the_ensemble_gets_no_gradient():
    branches = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    ensemble = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    p, q = (ensemble / 2).softmax(1), (branches / 2).softmax(2)
    loss = ensemble_loss(branches, ensemble, temperature=2.0, eps=0.0)
    assert_close(loss, 4 * (p * (p / q).log()).sum(2).mean(1).sum())
    assert torch.autograd.grad(loss, ensemble, allow_unused=True) == (None,)


@pytest.mark.parametrize('progress, expected', [(0.0, math.exp(-5)), (40 / 300, 0.2865), (80 / 300, 1.0), (0.9, 1.0)])
def test_the_ramp_has_the_known_values(progress, expected):
    assert_close(ramp_up(progress, 80 / 300), expected, rtol=0, atol=1e-4)
    assert ramp_up(progress, 0) == 1


def config(supervision=None, width=32, kind='ResNet_CIFAR', **backbone):
    backbone = backbone or dict(depth=18, base_channels=4, stem_channels=4)
    return dict(
        type='CDSClassifier',
        backbone=dict(type=kind, **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=width),
        data_preprocessor=dict(num_classes=3, mean=[0] * 3, std=[255] * 3),
        supervisions=dict(one=supervision or dict(type='ONESupervision')),
    )


def build(*args, **kwargs):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config(*args, **kwargs))
    model.init_weights()
    return model


def samples(number):
    return [DataSample().set_gt_label(index % 3) for index in range(number)]


def test_the_gate_mixes_logits_of_every_image_on_its_own():
    model = build()
    member = model.supervisions['one']
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    member.gate = torch.nn.Module()
    member.gate.forward = lambda features: weights
    for branch, logits in zip(member.branches, ([[0.0, 2.0, 0.0]] * 2, [[0.0, 0.0, 0.0]] * 2), strict=True):
        branch.forward = lambda features, logits=logits: torch.tensor(logits)
    _, ensemble = member.classify(torch.zeros(2, 16, 4, 4), torch.tensor([[2.0, 0.0, 0.0]] * 2))
    assert ensemble.tolist() == [[1.0, 0.5, 0.0], [0.0, 2.0, 0.0]]


def test_gate_weights_sum_to_one_and_are_equal_where_no_score_is_positive():
    gate = build().supervisions['one'].gate
    features = torch.randn(6, 16, 4, 4)
    assert_close(gate(features).sum(1), torch.ones(6))
    gate[3].bias.data.fill_(-100)
    assert_close(gate(features), torch.full((6, 3), 1 / 3))


def test_branches_start_from_weights_of_their_own_and_the_network_from_those_of_its_plain_twin():
    torch.manual_seed(0)
    model = build()
    first, second = (branch.stages[0][0].conv1.weight for branch in model.supervisions['one'].branches)
    own = model.backbone.layer4[0].conv1.weight
    assert not torch.equal(first, second)
    assert not torch.equal(first, own)
    assert_close(first.std(), own.std(), rtol=0.1, atol=0)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        plain = MODELS.build({**config(), 'supervisions': None})
    plain.init_weights()
    assert torch.equal(plain.backbone.layer4[0].conv1.weight, own)


def test_losses_reach_every_parameter_and_only_the_ensembles_reaches_the_gate():
    model = build()
    losses = model.loss(torch.randn(6, 3, 16, 16), samples(6))
    assert set(losses) >= {'one.branch2.loss_ce', 'one.branch3.loss_ce', 'one.ensemble.loss_ce', 'one.loss_one'}
    gate = list(model.supervisions['one'].gate.parameters())
    assert all(
        gradient is None
        for gradient in torch.autograd.grad(losses['one.loss_one'], gate, None, True, allow_unused=True)
    )
    total(losses).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_divergence_follows_the_progress_of_the_run():
    model = build()
    member, outputs = model.supervisions['one'], model.outputs(torch.randn(6, 3, 16, 16), samples(6))
    early, late = (member(replace(outputs, progress=progress)) for progress in (0.0, 1.0))
    assert_close(early['loss_one'], math.exp(-5) * late['loss_one'])
    assert_close(early['ensemble.loss_ce'], late['ensemble.loss_ce'])


@pytest.mark.parametrize(
    'kind, backbone, width, taps',
    [
        ('ResNeXt', dict(depth=50), 2048, (2,)),
        ('MobileNetV2', {'out_indices': (7,)}, 1280, (4,)),
        ('MobileNetV1', {'out_indices': (4,)}, 1024, (3,)),
        ('ShuffleNetV1', {'out_indices': (2,)}, 960, (1,)),
        ('ShuffleNetV2', {'out_indices': (3,)}, 1024, (1,)),
    ],
)
def test_any_staged_backbone_has_branches_that_give_what_its_own_tail_gives(kind, backbone, width, taps):
    supervision = dict(type='ONESupervision', taps=taps)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = build_on_meta(config(supervision, width, kind, **backbone))
        network = MODELS.build({**config(None, width, kind, **backbone), 'supervisions': None, 'taps': taps}).backbone
    branch = model.supervisions['one'].branches[0]
    tail = modules_after(network, taps[0])
    assert sum(p.numel() for p in branch.stages.parameters()) == sum(p.numel() for m in tail for p in m.parameters())
    network.eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, 64, 64))
        here = outputs[list(network.out_indices).index(taps[0])]
        for part in tail:
            here = part(here)
    assert_close(here, outputs[-1])


def test_a_preactivated_network_has_branches_of_its_own_last_stage():
    model = build_on_meta(config(None, 512, 'PreActResNet', depth=18, stem='cifar'))
    branch, backbone = model.supervisions['one'].branches[0], model.backbone
    own = [*backbone.layer4.parameters(), *backbone.norm.parameters()]
    assert sum(p.numel() for p in branch.stages.parameters()) == sum(p.numel() for p in own)


def test_the_plain_classifier_is_branch_one_and_the_ensemble_loads_the_same_checkpoint(tmp_path):
    model = build().eval()
    for norm in model.supervisions['one'].modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.normal_()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        together = MODELS.build({**config(), 'type': 'ONEClassifier'})
    together.load_state_dict(model.state_dict(), strict=True)
    together.eval()
    images = torch.randn(4, 3, 16, 16)
    outputs = model.outputs(images, samples(4))
    _, expected = model.supervisions['one'].classify(outputs.features[2], outputs.logits)
    assert_close(together(images), expected)
    predicted = together(images, samples(4), mode='predict')
    assert_close(torch.stack([sample.pred_score for sample in predicted]), expected.softmax(1))
    assert_close(
        torch.stack([s.pred_score for s in model(images, samples(4), mode='predict')]), outputs.logits.softmax(1)
    )
    assert not torch.allclose(expected, outputs.logits)


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match='num_branches is 1; an ensemble needs at least 2'):
        ONESupervision(num_branches=1)
    with pytest.raises(ConfigError, match=r'taps is \(1, 2\); name the one stage'):
        ONESupervision(taps=(1, 2))
    with pytest.raises(ConfigError, match='ramp is 80; it is a share of the run'):
        ONESupervision(ramp=80)
    with pytest.raises(ConfigError, match='after stage 3 is not a chain of modules'):
        build(dict(type='ONESupervision', taps=(3,)))
    with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(ConfigError, match='exactly one'):
        MODELS.build({**config(), 'type': 'ONEClassifier', 'supervisions': None})
