"""SSKD: closed forms, selection of rows, the frozen first stage, and rotated views."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_cases import CLASSES, TEACHER, network, outputs, total
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.baselines import RotationSupervision, SSKDSupervision
from mmcds.baselines.sskd import rotation_loss, rotation_similarity, select_rows, selected_divergence
from mmcds.core.errors import ConfigError
from mmcds.views.rotation import RightAngleRotation


def test_similarities_are_cosines_in_the_order_of_the_views():
    embeddings = F.normalize(torch.randn(4, 5, 6, dtype=torch.float64), dim=2)
    found = rotation_similarity(embeddings)
    assert found.shape == (15, 5)
    assert_close(found[2 * 5 + 1, 3], F.cosine_similarity(embeddings[3, 1], embeddings[0, 3], dim=0))


def test_a_perfect_and_the_worst_similarity_have_the_known_losses():
    perfect = (2 * torch.eye(4, dtype=torch.float64) - 1).repeat(3, 1)
    assert_close(rotation_loss(perfect).item(), math.log(1 + 3 * math.exp(-2)))
    assert_close(rotation_loss(perfect).item(), 0.340753, rtol=0, atol=1e-6)
    assert_close(rotation_loss(-perfect).item(), math.log(1 + 3 * math.exp(2)))
    assert rotation_loss(torch.ones(3, 1)).item() == 0


def test_rows_that_the_teacher_gets_right_are_kept_and_the_best_of_the_others():
    scores = torch.tensor([[9.0, 1, 2], [1.0, 9, 2], [9.0, 8, 7], [9.0, 7, 8], [1.0, 2, 9]])
    target = torch.tensor([0, 1, 1, 1, 0])  # ranks 0, 0, 1, 2, 2, the last two behind by 2 and 8
    kept = {ratio: select_rows(scores, target, ratio).nonzero()[:, 0].tolist() for ratio in (0.0, 0.34, 0.67, 1.0)}
    assert kept == {0.0: [0, 1], 0.34: [0, 1, 2], 0.67: [0, 1, 2, 3], 1.0: [0, 1, 2, 3, 4]}
    unknown = torch.tensor([0, -1, 1, -1, 0])
    kept = {ratio: select_rows(scores, unknown, ratio).nonzero()[:, 0].tolist() for ratio in (0.0, 0.5, 1.0)}
    assert kept == {0.0: [0], 0.5: [0, 2], 1.0: [0, 2, 4]}, 'rows without a label are neither right nor wrong'
    assert not select_rows(scores, torch.full((5,), -1), 1.0).any()


def test_which_rows_are_chosen_does_not_depend_on_their_order():
    scores, target = torch.randn(60, 4), torch.randint(4, (60,))  # ranks of 0 to 3, so most rows have equals
    order = torch.randperm(60)
    chosen, permuted = (
        set(select_rows(*each, 0.5).nonzero()[:, 0].tolist())
        for each in ((scores, target), (scores[order], target[order]))
    )
    assert {int(order[row]) for row in permuted} == chosen
    rank = (scores > scores.gather(1, target[:, None])).sum(1)
    assert len(chosen) == 60 - int((rank > 0).sum()) + int((rank > 0).sum()) // 2
    last = max(int(rank[row]) for row in chosen)
    behind = (scores.amax(1) - scores.gather(1, target[:, None])[:, 0])[rank == last]
    kept = sum(int(rank[row]) == last for row in chosen)
    assert {float(v) for v in behind.sort().values[:kept]} == {
        float(scores[row].max() - scores[row, target[row]]) for row in chosen if rank[row] == last
    }


def test_the_divergence_is_the_mean_over_the_chosen_rows_and_0_over_none():
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    student.retain_grad()
    rows = torch.tensor([False, True, False, False, True, False])
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 4 * (p * (p / q).log())[rows].sum(1).mean()
    assert_close(selected_divergence(student, teacher, rows, 2.0), expected)
    nothing = selected_divergence(student, teacher, torch.zeros_like(rows), 2.0)
    nothing.backward()
    assert nothing.item() == 0
    assert student.grad.abs().max() == 0


def stages(views=4, images=5):
    """Stage 2 with the embeddings of both networks, as the classifier would fill them in."""
    teacher, student = RotationSupervision(views), SSKDSupervision(num_views=views)
    teacher.build(network(TEACHER, None))
    student.build(network())
    teacher.double(), student.double()
    teacher.name = student.name = 'sskd'
    found = outputs(views=views, images=images)

    def fill(found):
        other = replace(found.teacher, embeddings={'sskd': teacher.embed(found.teacher)})
        return replace(found, embeddings={'sskd': student.embed(found)}, teacher=other)

    return teacher, student, found, fill


def test_stage_two_is_the_published_sum():
    _, student, found, fill = stages()
    found = fill(found)
    values = student(found)
    own, other, labels = found.logits, found.teacher.logits, found.labels

    def kl(a, b, t):
        return t**2 * F.kl_div((a / t).log_softmax(1), (b / t).softmax(1), reduction='batchmean')

    assert_close(values['loss_logit'], 0.9 * kl(own[:5], other[:5], 4))
    assert_close(values['loss_rotated'], 2.7 * kl(own[5:], other[5:], 4))  # ratio 1 keeps all
    rows, cosines = [], []
    for part in (found, found.teacher):
        embeddings = part.embeddings['sskd']['rotation']
        cosines.append(torch.cat([embeddings[v] @ embeddings[0].T for v in (1, 2, 3)]))
    ranks = [int((row > row[index % 5]).sum()) for index, row in enumerate(cosines[1])]
    wrong = sum(rank > 0 for rank in ranks)
    behind = [float(row.max() - row[index % 5]) for index, row in enumerate(cosines[1].detach())]
    rows = sorted(range(15), key=lambda index: (ranks[index], behind[index]))[: 15 - wrong + int(0.75 * wrong)]
    assert_close(values['loss_similarity'], 10 * kl(cosines[0][rows], cosines[1][rows], 0.5))
    assert len(labels) == 5


def test_a_student_that_equals_its_teacher_is_at_zero():
    _, student, found, _ = stages()
    found = replace(found, embeddings={'sskd': student.embed(found)})
    values = student(replace(found, teacher=found))
    for value in values.values():
        assert_close(value.item(), 0.0, rtol=0, atol=1e-9)


def test_the_order_of_the_images_does_not_matter():
    _, student, found, fill = stages()
    order = torch.randperm(5)

    def shuffled(part):
        def rows(value):
            return part.per_view(value)[:, order].flatten(0, 1)

        return replace(part, pooled=rows(part.pooled), logits=rows(part.logits), labels=part.labels[order])

    other = fill(replace(shuffled(found), teacher=shuffled(found.teacher)))
    before, after = student(fill(found)), student(other)
    for name in before:
        assert_close(after[name], before[name])


def test_one_image_has_no_similarity_to_learn():
    _, student, found, fill = stages(images=1)
    values = student(fill(found))
    assert values['loss_similarity'].item() == 0
    assert torch.isfinite(total(values))


def model(supervision, channels=4, **other):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(
            dict(
                type='CDSClassifier',
                backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=channels, stem_channels=channels),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=8 * channels),
                data_preprocessor=dict(num_classes=CLASSES, mean=[0] * 3, std=[255] * 3),
                supervisions=dict(sskd=supervision),
                **other,
            )
        )
    built.init_weights()
    return built


def test_stage_one_trains_the_projection_alone():
    built = model(dict(type='RotationSupervision'), frozen=('backbone', 'neck', 'head'))
    before = {name: value.clone() for name, value in built.state_dict().items()}
    built.train()
    assert not built.backbone.training
    optimizer = torch.optim.SGD([p for p in built.parameters() if p.requires_grad], lr=1.0)
    samples = [DataSample().set_gt_label(index % CLASSES) for index in range(6)]
    views = torch.randn(4, 6, 3, 16, 16)
    losses = built.loss(views, samples)
    total(losses).backward()
    optimizer.step()
    changed = {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith('supervisions.sskd.projection')}
    assert built.loss(views, samples)['sskd.loss_rotation'] < losses['sskd.loss_rotation']


def test_a_part_that_cannot_be_frozen_is_refused():
    with pytest.raises(ConfigError, match="frozen names 'body'; choose among backbone, neck, head"):
        model(dict(type='RotationSupervision'), frozen=('body',))


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match='num_views is 1; it needs the original and a rotation'):
        RotationSupervision(1)
    with pytest.raises(ConfigError, match='similarity_ratio is 2; it is a share'):
        SSKDSupervision(similarity_ratio=2)
    facts = network()
    with pytest.raises(ConfigError, match='the teacher has 4 classes and the student 3'):
        SSKDSupervision().build(replace(facts, teacher=replace(facts.teacher, num_classes=4)))


def test_quarter_turns_move_every_pixel_to_its_place():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    once = RightAngleRotation(1).transform(dict(img=image))
    assert once['img'].shape == (3, 2, 3)
    assert once['img_shape'] == (3, 2)
    assert (once['img'][0, 0] == image[0, 2]).all(), 'counter-clockwise: the right edge becomes the top'
    back = RightAngleRotation(3).transform(once)
    assert (back['img'] == image).all()
    with pytest.raises(ConfigError, match='turns is 4'):
        RightAngleRotation(4)
