"""Contrastive supervision: what it returns for a step, where gradients go, what it refuses."""

from dataclasses import replace

import pytest
import torch
from mmpretrain.registry import MODELS
from torch.testing import assert_close

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.core.outputs import StepOutputs
from mmcds.core.taps import NetworkInfo, TapInfo
from mmcds.losses import contrast_metrics, supcon_loss

TAPS = (0, 'layer2.1')
NAMES = ('stage0', 'layer2-1')


def build(head='mlp', **options):
    config = dict(
        type='ContrastiveSupervision',
        taps=TAPS,
        neck=dict(type='CDSNeck', head=head, out_channels=5),
        loss=dict(type='SupConLoss', temperature=0.1, loss_weight=0.3),
    )
    config.update(options)
    supervision = MODELS.build(config)
    taps = dict(zip(TAPS, (TapInfo(4, 2), TapInfo(6, 4)), strict=True))
    supervision.build(NetworkInfo(name='Net', taps=taps, final=TapInfo(8, 8), num_classes=3))
    supervision.name = 'cds'
    return supervision


def outputs(labels=(0, 1, -1, 0), embeddings=None):
    images = len(labels)
    features = {
        0: torch.randn(2 * images, 4, 8, 8, requires_grad=True),
        'layer2.1': torch.randn(2 * images, 6, 4, 4, requires_grad=True),
    }
    return StepOutputs(
        num_views=2,
        features=features,
        pooled=torch.zeros(2 * images, 8),
        logits=torch.zeros(2 * images, 3),
        labels=torch.tensor(labels),
        sample_idx=None,
        progress=0.0,
        embeddings=embeddings or {},
    )


def forward(supervision, step):
    """Embed, then compute the losses, as a training step does."""
    return supervision(replace(step, embeddings={'cds': supervision.embed(step)}))


def test_every_tap_gets_its_weighted_loss_and_its_watched_values():
    supervision, step = build(), outputs()
    values = forward(supervision, step)
    watched = [f'{name}.{key}' for name in NAMES for key in ('alignment', 'uniformity', 'contrast_top1')]
    assert list(values) == [*(f'{name}.loss_contrast' for name in NAMES), *watched]
    for name, rows in zip(NAMES, supervision.embed(step).values(), strict=True):
        assert rows.shape == (2, 4, 5)
        assert_close(values[f'{name}.loss_contrast'], 0.3 * supcon_loss(rows, step.labels, 0.1))
        for key, value in contrast_metrics(rows, step.labels).items():
            assert_close(values[f'{name}.{key}'], value)
            assert not values[f'{name}.{key}'].requires_grad


def test_rows_that_were_embedded_already_are_not_computed_again():
    supervision, step = build(), outputs()
    embeddings = supervision.embed(step)
    expected = forward(supervision, step)
    supervision.neck.forward = None  # a call would fail
    again = supervision(outputs(embeddings={'cds': embeddings}))
    assert_close(again['stage0.loss_contrast'], expected['stage0.loss_contrast'])


def test_the_gradient_of_every_loss_reaches_its_own_head_and_feature_only():
    supervision, step = build(), outputs()
    forward(supervision, step)['stage0.loss_contrast'].backward()
    assert step.features[0].grad.abs().sum() > 0
    assert not step.features['layer2.1'].grad.any()
    for name, parameter in supervision.named_parameters():
        assert parameter.grad.any() == ('stage0' in name), name


@pytest.mark.parametrize('head', ['mlp', 'sepconv', 'sepconv+mlp'])
@pytest.mark.parametrize('labels', [(-1, -1, -1), (0, 0, 0), (2, 1, -1)])
def test_every_head_gets_a_finite_gradient_for_any_labels(head, labels):
    supervision, step = build(head), outputs(labels)
    sum(value for key, value in forward(supervision, step).items() if 'loss' in key).backward()
    for parameter in supervision.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize('gather', [True, 'ring'])
def test_gather_in_a_single_process_changes_nothing(gather):
    plain, gathering, step = build(), build(gather=gather), outputs()
    gathering.load_state_dict(plain.state_dict())
    assert_close(forward(gathering, step), forward(plain, step), rtol=0, atol=0)


def test_ntxent_is_interchangeable_and_ignores_labels():
    loss = dict(type='NTXentLoss', temperature=0.1, loss_weight=0.3)
    supervision, step = build(loss=loss), outputs()
    rows = supervision.embed(step)[0]
    assert_close(forward(supervision, step)['stage0.loss_contrast'], 0.3 * supcon_loss(rows, None, 0.1))


def test_a_learned_temperature_is_trained_and_logged():
    supervision = build(loss=dict(type='SupConLoss', temperature=0.1, loss_weight=0.3, learn_temperature=True))
    values = forward(supervision, outputs())
    assert_close(values['temperature'].item(), 0.1)
    assert not values['temperature'].requires_grad
    values['stage0.loss_contrast'].backward()
    assert supervision.loss.log_temperature.grad.abs() > 0


def test_a_broken_image_is_reported_instead_of_trained_on():
    step = outputs()
    step.features[0].data[0] = torch.nan
    with pytest.raises(DivergedError, match='embeddings contain NaN or infinity'):
        forward(build(), step)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(taps=(), neck=dict(type='CDSNeck')), r'taps is empty.*taps=\(0, 1, 2\)'),
        (
            dict(loss=dict(type='SupConLoss', loss_weight=0.0)),
            'loss_weight is 0.0; give it a positive value',
        ),
        (dict(gather='rang'), "gather is 'rang'; choose one of False, True, ring"),
        (dict(gather='ring', unlabelled_weight=1.0), "gather='ring' has no form for unlabelled_weight"),
        (dict(gather='ring', loss=dict(type='SINCERELoss')), 'no form for the loss SINCERELoss'),
        (dict(gather='ring', loss=dict(type='SupConLoss', normalize=True)), 'no form for normalize=True'),
        (dict(unlabelled_weight=0.0), 'unlabelled_weight is 0.0; give it a positive value'),
    ],
)
def test_a_config_without_effect_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        build(**change)


def test_what_is_only_logged_is_left_out_where_nobody_watches():
    supervision, step = build(), outputs()
    watched, alone = forward(supervision, step), forward(supervision, replace(step, watched=False))
    assert list(alone) == [f'{name}.loss_contrast' for name in NAMES]
    for name, value in alone.items():
        assert value == watched[name]


def test_equation_6_has_two_terms_over_separate_sets_of_images():
    labels = (0, -1, 1, -1, 0, -1)
    supervision, step = build(unlabelled_weight=1.0), outputs(labels)
    values = forward(supervision, step)
    known, unknown = [0, 2, 4], [1, 3, 5]
    for name, rows in zip(NAMES, supervision.embed(step).values(), strict=True):
        expected = 0.3 * supcon_loss(rows[:, known], torch.tensor([0, 1, 0]), 0.1)
        assert_close(values[f'{name}.loss_contrast'], expected)
        assert_close(values[f'{name}.loss_unlabelled'], supcon_loss(rows[:, unknown], None, 0.1))


def test_the_term_of_the_unlabelled_images_gives_labelled_ones_no_gradient():
    labels = (0, -1, 1, -1)
    supervision = build(unlabelled_weight=1.0)
    for key, images in (('loss_contrast', [0, 2]), ('loss_unlabelled', [1, 3])):
        step = outputs(labels)
        rows = {tap: row.detach().requires_grad_() for tap, row in supervision.embed(step).items()}
        supervision(replace(step, embeddings={'cds': rows}))[f'stage0.{key}'].backward()
        moved = rows[0].grad.abs().sum((0, 2)) > 0
        assert moved.nonzero()[:, 0].tolist() == images


@pytest.mark.parametrize('labels', [(0, 1, 0), (-1, -1, -1)])
def test_with_images_of_one_kind_only_one_term_of_equation_6_is_left(labels):
    separate, joint, step = build(unlabelled_weight=0.3), build(), outputs(labels)
    joint.load_state_dict(separate.state_dict())
    own, other = ('loss_contrast', 'loss_unlabelled') if labels[0] == 0 else ('loss_unlabelled', 'loss_contrast')
    values = forward(separate, step)
    assert_close(values[f'stage0.{own}'], forward(joint, step)['stage0.loss_contrast'])
    assert values[f'stage0.{other}'] == 0
    values[f'stage0.{other}'].backward()  # a batch without images of a kind trains on
    assert all(p.grad.isfinite().all() for p in separate.parameters() if p.grad is not None)
