"""The classifier: one step of the official preset by hand, and a plain classifier at test time."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F
from torch.testing import assert_close

import mmcds.openmmlab.classifier as module
from mmcds.core.errors import ConfigError
from mmcds.core.recompute import recompute, stages_of
from mmcds.openmmlab import CDSClassifier

BACKBONE = dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8, zero_init_residual=False)
HEAD = dict(
    type='mmpretrain.LinearClsHead',
    num_classes=5,
    in_channels=64,
    loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
)
CDS = dict(
    type='mmpretrain.ContrastiveSupervision',
    taps=(0, 1, 2, 3),
    neck=dict(type='mmpretrain.CDSNeck', head='sepconv'),
    loss=dict(type='mmpretrain.SupConLoss', temperature=0.07, loss_weight=0.1),
)


MIXUP = dict(type='mmpretrain.Mixup', alpha=0.8)


def classifier(**kwargs) -> CDSClassifier:
    config = dict(backbone=BACKBONE, neck=dict(type='mmpretrain.GlobalAveragePooling'), head=HEAD)
    return CDSClassifier(**{**config, **kwargs})


def with_cds(**kwargs) -> CDSClassifier:
    return classifier(supervisions=dict(cds=CDS), **kwargs)


def samples(*labels, indices=None) -> list[DataSample]:
    found = [DataSample().set_gt_label(label) for label in labels]
    for sample, index in zip(found, indices or [], strict=False):
        sample.set_field(index, 'sample_idx', field_type='metainfo')
    return found


def views(num_views=2, num_images=4, side=32, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(num_views, num_images, 3, side, side, dtype=dtype)


def total(losses: dict) -> torch.Tensor:
    return sum(value for key, value in losses.items() if 'loss' in key)


def test_official_loss_terms_equal_an_independent_computation():
    model = with_cds().double()
    images, labels = views(dtype=torch.float64), [0, 1, 1, 4]
    with torch.no_grad():
        for parameter in model.parameters():  # hand-set weights
            parameter.copy_(torch.linspace(-1, 1, parameter.numel(), dtype=torch.float64).sin().view_as(parameter) / 4)
    rows = images.reshape(8, 3, 32, 32)
    backbone, feature, expected = model.backbone, None, {}
    feature = F.relu(
        F.batch_norm(
            F.conv2d(rows, backbone.conv1.weight, padding=1),
            None,
            None,
            backbone.bn1.weight,
            backbone.bn1.bias,
            training=True,
        )
    )
    for stage in range(4):
        feature = getattr(backbone, f'layer{stage + 1}')(feature)
        row = feature
        for block in [m for m in model.supervisions['cds'].neck.heads[f'stage{stage}'] if hasattr(m, '0')]:
            for half, stride in ((0, 2), (4, 1)):
                row = F.conv2d(row, block[half].weight, stride=stride, padding=1, groups=row.shape[1])
                row = F.conv2d(row, block[half + 1].weight)
                norm = block[half + 2]
                row = F.relu(F.batch_norm(row, None, None, norm.weight, norm.bias, training=True))
        row = row.mean((2, 3))
        row = (row / row.norm(dim=1, keepdim=True)).detach()
        terms = []
        for i in range(8):
            others = [k for k in range(8) if k != i]
            bottom = math.log(sum(math.exp(row[i] @ row[k] / 0.07) for k in others))
            positives = [k for k in others if labels[k % 4] == labels[i % 4]]
            terms.append(sum(bottom - float(row[i] @ row[k]) / 0.07 for k in positives) / len(positives))
        expected[f'cds.stage{stage}.loss_contrast'] = 0.1 * sum(terms) / 8
    logits = feature.mean((2, 3)) @ model.head.fc.weight.T + model.head.fc.bias
    expected['loss_ce'] = -sum(logits[i].log_softmax(0)[labels[i]] for i in range(4)).item() / 4

    losses = model.loss(images, samples(*labels))
    found = {key: value.item() for key, value in losses.items() if 'loss' in key}
    assert found == pytest.approx(expected, rel=1e-9)


def test_test_time_output_is_bit_identical_to_the_plain_classifier_of_the_host():
    model = with_cds()
    config = dict(
        type='mmpretrain.ImageClassifier',
        backbone=BACKBONE,
        head=HEAD,
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
    )
    plain = MODELS.build(config)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith('supervisions.')}
    plain.load_state_dict(state, strict=True)
    model.eval()
    plain.eval()
    images = views()[0]
    assert torch.equal(model(images, mode='tensor')[0], plain(images, mode='tensor')[0])
    ours, theirs = (m.predict(images, samples(0, 0, 0, 0)) for m in (model, plain))
    assert all(torch.equal(a.pred_score, b.pred_score) for a, b in zip(ours, theirs, strict=True))
    with torch.no_grad():
        assert torch.equal(model.head(model.extract_feat(images)), plain.head(plain.extract_feat(images)))


def test_cost_at_test_time_equals_the_baseline():
    def cost(model):
        model.supervisions.clear()  # what an export leaves out
        return get_model_complexity_info(model, inputs=(views()[0][:1],), show_table=False, show_arch=False)

    plain, ours = (
        cost(classifier()),
        get_model_complexity_info(with_cds(), inputs=(views()[0][:1],), show_table=False, show_arch=False),
    )
    assert ours['flops'] == plain['flops']
    assert cost(with_cds())['params'] == plain['params']


def test_without_supervisions_a_step_equals_the_host():
    model = classifier()
    plain = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=BACKBONE,
            head=HEAD,
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
        )
    )
    plain.load_state_dict(model.state_dict())
    images, labels = views(1), samples(0, 1, 2, 3)
    ours, theirs = model.loss(images, labels)['loss_ce'], plain.loss(images[0], labels)['loss']
    assert_close(ours, theirs)
    ours.backward()
    theirs.backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert_close(a.grad, b.grad, msg=name)


def test_a_method_starts_from_the_weights_of_its_plain_twin():
    torch.manual_seed(1)
    plain = classifier()
    plain.init_weights()
    torch.manual_seed(1)
    ours = with_cds()
    ours.init_weights()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


def test_vanishing_weight_leaves_the_gradient_of_plain_cross_entropy():
    model = with_cds()
    model.supervisions['cds'].loss.loss_weight = 0.0
    images, labels = views(), samples(0, 1, 2, 3)
    total(model.loss(images, labels)).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if not name.startswith('supervisions')}
    model.zero_grad()
    logits = model.head(model.extract_feat(images.flatten(0, 1)))
    F.cross_entropy(logits[:4], torch.arange(4)).backward()
    for name, gradient in found.items():
        assert_close(gradient, dict(model.named_parameters())[name].grad, msg=name)


def test_swapping_the_views_changes_cross_entropy_only():
    model = with_cds()
    images, labels = views(), samples(0, 1, 1, 2)
    first, second = model.loss(images, labels), model.loss(images.flip(0), labels)
    assert abs(first['loss_ce'] - second['loss_ce']) > 1e-4
    for key in first:
        if 'loss_contrast' in key:
            assert_close(first[key], second[key])


def test_cross_entropy_on_both_views_is_the_mean_over_them():
    model = with_cds(ce_views=(0, 1))
    images, labels = views(), samples(0, 1, 1, 2)
    both = model.loss(images, labels)['loss_ce']
    single = []
    for view in (0, 1):
        model.ce_views = (view,)
        single.append(model.loss(images, labels)['loss_ce'])
    assert_close(both, sum(single) / 2)


def test_unlabelled_images_are_out_of_cross_entropy():
    model = with_cds()
    outputs = model.outputs(views(), samples(3, -1, 2, -1))
    losses = model._cross_entropy(outputs)
    assert_close(losses['loss_ce'], F.cross_entropy(outputs.logits[[0, 2]], torch.tensor([3, 2])))


def test_a_batch_without_any_label_gives_every_parameter_a_finite_gradient():
    model = with_cds()
    losses = model.loss(views(), samples(-1, -1, -1, -1))
    assert losses['loss_ce'] == 0
    total(losses).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_accuracy_of_the_head_counts_labelled_rows_of_view_0():
    model = with_cds(head=dict(HEAD, cal_acc=True, topk=(1,)))
    outputs = model.outputs(views(), samples(0, -1, 1, 2))
    labels = outputs.logits[:4].argmax(1)
    labels[1] = -1
    outputs = model.outputs(views(), samples(*labels.tolist()))
    expected = (outputs.logits[[0, 2, 3]].argmax(1) == labels[[0, 2, 3]]).float().mean() * 100
    assert_close(model._cross_entropy(outputs)['accuracy_top-1'][0], expected.view(1))


WIDE = dict(backbone=dict(BACKBONE, base_channels=16, stem_channels=16), head=dict(HEAD, in_channels=128))


def test_channels_last_changes_the_layout_and_not_the_result():
    model, other = with_cds(**WIDE), with_cds(**WIDE, channels_last=True)
    other.load_state_dict(model.state_dict())
    assert other.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    images, labels = views(), samples(0, 1, 1, 2)
    assert_close(total(other.loss(images, labels)), total(model.loss(images, labels)), rtol=1e-4, atol=1e-4)


def test_narrow_networks_stay_contiguous():
    model = with_cds(channels_last='auto')
    assert not model.channels_last
    assert model.backbone.layer1[0].conv1.weight.is_contiguous()


def test_the_layout_does_not_change_which_weights_a_seed_gives():
    models = []
    for channels_last in (False, True):
        torch.manual_seed(3)
        models.append(with_cds(**WIDE, channels_last=channels_last))
        models[-1].init_weights()
    assert models[1].backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second), name


def test_trace_carries_what_the_pass_produced():
    model = with_cds()
    outputs = model.outputs(views(), samples(0, 1, 2, -1, indices=[7, 5, 3, 9]))
    assert outputs.num_views == 2
    assert {tap: tuple(f.shape) for tap, f in outputs.features.items()} == {
        0: (8, 8, 32, 32),
        1: (8, 16, 16, 16),
        2: (8, 32, 8, 8),
        3: (8, 64, 4, 4),
    }
    assert_close(outputs.pooled, outputs.features[3].mean((2, 3)))
    assert outputs.logits.shape == (8, 5)
    assert outputs.labels.tolist() == [0, 1, 2, -1]
    assert outputs.sample_idx.tolist() == [7, 5, 3, 9]
    assert torch.equal(outputs.per_view(outputs.logits)[1, 2], outputs.logits[6])
    assert model.outputs(views(), samples(0, 1, 2, 3)).sample_idx is None


def test_progress_is_the_share_of_the_run(monkeypatch):
    from mmengine.logging import MessageHub

    assert module.run_progress() == 0
    hub = MessageHub.get_instance('a run')
    hub.update_info('iter', 30)
    hub.update_info('max_iters', 120)
    assert module.run_progress() == 0.25


def test_the_loss_falls_on_a_few_images():
    model = with_cds()
    model.init_weights()
    images, labels = views(num_images=8), samples(*[i % 4 for i in range(8)])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    values = []
    for _ in range(20):
        loss = total(model.loss(images, labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < values[0] / 2


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(train_cfg=dict(augment=dict(type='Mixup'))), "train_cfg has 'augment'; it takes augments and probs"),
        (dict(train_cfg=dict(augments=MIXUP), head={**HEAD, 'cal_acc': True}), 'mixed images have no single class'),
        (dict(head=None), 'head is None, but training needs its cross-entropy'),
        (dict(ce_views=()), r'ce_views is \(\); name at least one view'),
        (dict(ce_views=(-1,)), r'ce_views is \(-1,\)'),
        (dict(supervisions={'my loss': CDS}), "the name 'my loss'"),
        (dict(supervisions={'cds_loss': CDS}), "without 'loss'"),
        (dict(data_preprocessor=dict(num_classes=7)), 'head.num_classes is 5 but data_preprocessor.num_classes is 7'),
        (dict(supervisions=dict(cds=dict(CDS, taps=(5,), neck=dict(type='mmpretrain.CDSNeck')))), 'has no stage 5'),
        (
            dict(supervisions=dict(cds=dict(CDS, taps=('layer7',), neck=dict(type='mmpretrain.CDSNeck')))),
            "no module 'layer7'",
        ),
        (dict(supervisions=dict(cds=dict(CDS, taps=()))), 'taps is empty'),
        (
            dict(supervisions=dict(cds=dict(CDS, loss=dict(CDS['loss'], loss_weight=0.0)))),
            'loss_weight is 0.0; give it a positive value',
        ),
    ],
)
def test_rejects_when_built(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        classifier(**kwargs)


def test_none_removes_an_inherited_supervision():
    assert len(classifier(supervisions=dict(cds=None)).supervisions) == 0


@pytest.mark.parametrize(
    'kwargs, images', [(dict(supervisions=dict(cds=CDS)), views(1)), (dict(ce_views=(0, 1)), views(1)[0])]
)
def test_rejects_fewer_views_than_needed(kwargs, images):
    with pytest.raises(ConfigError, match=r'1 view\(s\) per image arrive, but 2 are needed'):
        classifier(**kwargs).loss(images, samples(0, 1, 2, 3))


def test_rejects_a_missing_sample_index():
    model = with_cds()
    model.supervisions['cds'].needs_sample_idx = True
    with pytest.raises(ConfigError, match="supervision 'cds' needs sample_idx, but the data loader did not say it"):
        model.loss(views(), samples(0, 1, 2, 3))


def test_stages_run_again_in_the_backward_pass_change_no_loss_no_gradient_and_no_statistics():
    models = [with_cds(), with_cds(recompute_stages=True)]
    models[1].load_state_dict(models[0].state_dict())
    images, labels, kept = views(), samples(0, 1, 1, 2), []
    for model in models:
        numbers: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, n=numbers: n.append(t.numel()) or t, lambda t: t):
            loss = total(model.train().loss(images, labels))
        loss.backward()
        kept.append(sum(numbers))
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert_close(second.grad, first.grad, msg=name)
    for (name, first), second in zip(models[0].named_buffers(), models[1].buffers(), strict=True):
        assert torch.equal(first, second), name
    assert kept[1] < 0.6 * kept[0]


def test_a_backbone_without_stages_cannot_run_them_again():
    with pytest.raises(ConfigError, match='recompute_stages=True, but ModuleList has no stage'):
        stages_of(torch.nn.ModuleList([torch.nn.ReLU()]))


def test_a_head_of_another_width_is_named_and_not_the_product_that_fails():
    model = classifier(head={**HEAD, 'in_channels': 65})
    with pytest.raises(
        ConfigError, match=r'head\.in_channels is 65, but the backbone delivers 64 channels\. Set it to 64'
    ):
        model.loss(views(), samples(0, 1, 2, 3))


def seeded():
    np.random.seed(3), torch.manual_seed(3)


def test_mixing_without_supervisions_is_that_of_the_host():
    """Mixup and CutMix with their probabilities, and one in five images as it is."""
    mixing = dict(augments=[MIXUP, dict(type='mmpretrain.CutMix', alpha=1.0)], probs=[0.5, 0.3])
    head = {**HEAD, 'loss': dict(type='mmpretrain.CrossEntropyLoss', use_soft=True)}
    ours = classifier(train_cfg=dict(mixing), head=head)
    host = ImageClassifier(
        backbone=BACKBONE,
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=head,
        train_cfg=deepcopy(mixing),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', num_classes=5),
    )
    host.load_state_dict(ours.state_dict(), strict=False)
    for number in range(5):
        images, labels = views(1, 6), samples(0, 1, 2, 3, 4, number % 5)
        seeded(), np.random.seed(number)
        found = ours.loss(images, labels)
        seeded(), np.random.seed(number)
        batch = host.data_preprocessor(dict(inputs=images[0], data_samples=labels), training=True)
        expected = host.loss(**batch)['loss']
        assert list(found) == ['loss_ce']
        assert_close(found['loss_ce'], expected)


def test_cross_entropy_sees_mixed_images_and_the_contrast_the_views_as_they_are():
    """Without BatchNorm nothing couples rows, so each term equals that of a step without the other."""
    norm = dict(type='GN', num_groups=2)
    parts = dict(backbone={**BACKBONE, 'norm_cfg': norm})
    model = with_cds(**parts, train_cfg=dict(augments=MIXUP)).eval()
    plain = with_cds(**parts).eval()
    plain.load_state_dict(model.state_dict())
    images, labels = views(), samples(0, 1, 1, 2)
    seeded()
    found = model.loss(images, labels)
    clean = plain.loss(images, labels)
    assert_close(
        {key: found[key] for key in clean if key != 'loss_ce'}, {k: v for k, v in clean.items() if k != 'loss_ce'}
    )
    seeded()
    mixed, scores = model.mixing(images[0], F.one_hot(torch.tensor([0, 1, 1, 2]), 5).float())
    assert (scores.max(1).values < 1).any()
    logits = plain.head(plain.extract_feat(mixed))
    assert_close(found['loss_ce'], -(scores * logits.log_softmax(1)).sum(1).mean())
    assert model._beside is None


def test_mixing_gives_every_parameter_a_gradient_and_needs_labels():
    model = with_cds(train_cfg=dict(augments=MIXUP), ce_views=(0, 1))
    total(model.loss(views(), samples(0, 1, 1, 2))).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    with pytest.raises(ConfigError, match=r'1 view\(s\) per image arrive, but ce_views is \(0, 1\)'):
        model.loss(views(1), samples(0, 1, 1, 2))
    with pytest.raises(ConfigError, match='some have none'):
        model.loss(views(), samples(0, 1, -1, 2))
    assert model._beside is None


@pytest.mark.parametrize('mixing', [None, dict(augments=MIXUP)])
@pytest.mark.parametrize(
    'loss',
    [
        dict(type='mmpretrain.CrossEntropyLoss', use_sigmoid=True),
        dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ],
)
def test_other_losses_of_the_host_take_the_place_of_cross_entropy(loss, mixing):
    model = with_cds(head={**HEAD, 'loss': loss}, train_cfg=mixing).eval()
    images, labels = views(), torch.tensor([0, 1, 1, 2])
    seeded()
    found = model.loss(images, samples(*labels.tolist()))['loss_ce']
    seeded()
    scores = F.one_hot(labels, 5).float()
    rows = images[0]
    if mixing:
        rows, scores = model.mixing(rows, scores)
    logits = model.head(model.extract_feat(rows))
    if 'use_sigmoid' in loss:
        expected = F.binary_cross_entropy_with_logits(logits, scores, reduction='none').sum() / len(scores)
    else:
        soft = 0.9 * scores + 0.1 / 5
        expected = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert_close(found, expected)


def saved_numbers(backbone, images, names):
    """Return how many numbers a forward pass keeps for the backward pass, and the gradients."""
    numbers: list[int] = []
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: numbers.append(t.numel()) or t, lambda t: t):
        with recompute(backbone, names):
            outputs = backbone(images)
        total = sum(output.square().mean() for output in outputs)
    return sum(numbers), torch.autograd.grad(total, list(backbone.parameters()), allow_unused=True)


def test_blocks_are_run_again_where_the_backbone_does_not_run_a_stage_as_a_whole():
    pytest.importorskip('timm')
    backbones = [
        MODELS.build(dict(type='PreActResNet', depth=18, stem='cifar', base_channels=8, out_indices=(0, 1, 2, 3))),
        MODELS.build(dict(type='TimmStages', model_name='vit_tiny_patch16_224', out_indices=(2, 5, 8), img_size=32)),
    ]
    for backbone, last in zip(backbones, ('layer4.1', 'blocks.11'), strict=True):
        names = stages_of(backbone)
        assert names[-1] == last
        images = torch.randn(2, 3, 32, 32)
        whole, expected = saved_numbers(backbone, images, ())
        kept, gradients = saved_numbers(backbone, images, names)
        assert kept < 0.5 * whole
        for gradient, other in zip(gradients, expected, strict=True):
            assert (gradient is None and other is None) or torch.allclose(gradient, other, rtol=1e-4, atol=1e-7)
