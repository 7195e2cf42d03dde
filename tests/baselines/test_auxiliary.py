"""Auxiliary classifiers: layouts and sizes of their trunks, and what they refuse."""

import pytest
import torch
from conftest import build_on_meta
from torch.testing import assert_close

from mmcds.baselines import DHMSupervision, DKSSupervision, DSNSupervision
from mmcds.baselines.auxiliary import AuxiliaryClassifiers
from mmcds.core.errors import ConfigError
from mmcds.core.numerics import cross_entropy
from mmcds.core.taps import NetworkInfo, TapInfo
from mmcds.heads import CDSNeck


def model(depth=18, supervision=None, kind='ResNet_CIFAR', **backbone):
    width = 512 if depth < 50 else 2048
    return build_on_meta(
        dict(
            type='CDSClassifier',
            backbone=dict(type=kind, depth=depth, **backbone),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=100, in_channels=width),
            supervisions=dict(baseline=supervision) if supervision else None,
        )
    )


def blocks_and_widths(head):
    """(blocks, output width) of every group of a branch."""
    return [(len(group), group[-1].out_channels) for group in head if hasattr(group, 'block')]


@pytest.mark.parametrize(
    'depth, shallow, deep',
    [
        (18, [(1, 256), (2, 512)], [(2, 1024)]),
        (34, [(3, 256), (2, 512)], [(3, 1024)]),
        (50, [(3, 1024), (2, 2048)], [(3, 4096)]),
        (101, [(12, 1024), (2, 2048)], [(3, 4096)]),
        (152, [(18, 1024), (2, 2048)], [(3, 4096)]),
    ],
)
def test_branches_are_those_of_the_released_code(depth, shallow, deep):
    heads = model(depth, dict(type='DHMSupervision'), 'ResNet').supervisions['baseline'].classifiers.heads
    assert blocks_and_widths(heads['stage1']) == shallow
    assert blocks_and_widths(heads['stage2']) == deep
    assert heads['stage2'][-1].in_features == deep[-1][1]
    assert all(group[0].stride == 2 for head in heads.values() for group in head if hasattr(group, 'block'))


def test_blocks_and_width_of_a_branch_can_be_given():
    supervision = dict(type='DKSSupervision', blocks={1: (1, 2), 2: (2,)}, widen=1)
    heads = model(18, supervision).supervisions['baseline'].classifiers.heads
    assert blocks_and_widths(heads['stage1']) == [(1, 256), (2, 512)]
    assert blocks_and_widths(heads['stage2']) == [(2, 512)]


@pytest.mark.parametrize('kind, arguments', [('ResNeXt', {}), ('SEResNet', {}), ('PreActResNet', dict(stem='cifar'))])
def test_a_branch_repeats_the_blocks_of_its_backbone(kind, arguments):
    built = model(50, dict(type='DHMSupervision'), kind, **arguments)
    last = built.backbone.get_submodule('layer4')[-1]
    head = built.supervisions['baseline'].classifiers.heads['stage2']
    assert type(head[0][0]) is type(last)
    assert [name for name, _ in head[0][1].named_modules()] == [name for name, _ in last.named_modules()]


def test_the_like_for_like_trunk_is_the_head_of_cds():
    baseline = model(18, dict(type='DSNSupervision')).supervisions['baseline'].classifiers
    neck = CDSNeck((0, 1, 2), (64, 128, 256), (1, 2, 4), final_channels=512, final_stride=8)
    shapes = [tuple(value.shape) for value in neck.parameters()]
    assert [tuple(value.shape) for name, value in baseline.named_parameters() if value.shape[0] != 100] == shapes
    assert sum(value.numel() for value in baseline.parameters()) == 726_528 + 3 * 513 * 100


def info(num_classes=3, backbone=None):
    taps = {0: TapInfo(4, 1), 1: TapInfo(8, 2)}
    return NetworkInfo('Net', taps, taps[1], num_classes, backbone=backbone)


def test_pooled_features_alone_are_classified_without_a_trunk():
    heads = AuxiliaryClassifiers(info(), (0,), 'DSN', trunk='pool')
    feature = torch.randn(5, 4, 6, 6)
    linear = heads.heads['stage0'][-1]
    assert_close(heads([feature])[0], feature.mean((2, 3)) @ linear.weight.T + linear.bias)


def test_unlabelled_rows_do_not_count():
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, -1, 2, -1])
    expected = torch.nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    assert_close(cross_entropy(logits, labels), expected)
    nothing = cross_entropy(logits, torch.full((4,), -1))
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: DSNSupervision(taps=()), 'DSNSupervision: taps is empty'),
        (lambda: DKSSupervision(trunk='mlp'), "DKSSupervision: trunk is 'mlp'; choose one of sepconv, branch, pool"),
        (lambda: DSNSupervision(views=()), r'DSNSupervision: views is \(\); name at least one'),
        (lambda: DSNSupervision(loss_weight=-1), 'loss_weight is -1 and threshold 0.0; neither may be negative'),
        (lambda: DSNSupervision(decay='cosine'), "decay is 'cosine'; choose one of none, linear"),
        (lambda: DKSSupervision(ce_weight=-1), 'loss_weight is 1.0 and ce_weight -1; neither may be negative'),
        (lambda: DHMSupervision(temperature=0), 'DHMSupervision: temperature is 0; give it a positive value'),
        (lambda: DKSSupervision(direction='up'), "direction is 'up'; choose one of dense, top-down"),
        (lambda: DSNSupervision((0,)).build(info(num_classes=None)), 'the head does not say num_classes'),
        (
            lambda: DKSSupervision((0,)).build(info()),
            "trunk='branch' repeats the residual stages of a ResNet, and Net",
        ),
        (lambda: model(18, dict(type='DKSSupervision', taps=(3,))), 'a stage before its last one, 0 to 2, but taps'),
        (
            lambda: model(18, dict(type='DKSSupervision', blocks={1: (1,)})),
            r'blocks\[1\] is \(1,\), but 2 stage\(s\) of ResNet_CIFAR follow stage 1',
        ),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
