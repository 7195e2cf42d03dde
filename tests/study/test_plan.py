"""The plan of the study: what runs of a point have in common, what tells arms apart, and that every config trains."""

import itertools

import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.runner import Runner
from mmcds.paper.compose import compose
from mmcds.paper.tables import cell
from mmcds.study.plan import (
    ARMS,
    BATCH,
    POINTS,
    REFERENCE,
    STEPS,
    TEACHER_IMAGES,
    WEIGHTS,
    arms_of,
    chosen,
    compose_run,
    compose_teacher,
    fingerprint,
    place_teacher,
)
from mmcds.study.results import rate_source

PAIRS = [(point, arm) for point in POINTS.values() for arm in arms_of(point)]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def images(dataset):
    return [dataset.get_data_info(index)['img'].tobytes() for index in range(len(dataset))]


def value_at(config, key, default=None):
    *path, last = key.split('.')
    for part in path:
        config = config[part]
    return config.get(last, default)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """Place a teacher that is not trained."""
    place = tmp_path_factory.mktemp('teacher') / 'teacher'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        config = compose_teacher()
        place.with_suffix('.py').write_text(config.pretty_text)
        config.model.data_preprocessor = config.data_preprocessor
        torch.save(dict(state_dict=MODELS.build(config.model).state_dict()), place.with_suffix('.pth'))
    return str(place)


@pytest.mark.parametrize('point', POINTS.values(), ids=POINTS.keys())
def test_no_run_sees_what_it_is_measured_on(point):
    sizes = dict(fashion=(1000, 2000), emoji=(219, 1096))[point.leaf.rpartition('_')[2]]
    for test in (False, True):
        config = compose_run(point, ARMS[REFERENCE], 0.1, 0.1, test)
        found = images(DATASETS.build(config.val_dataloader.dataset))
        training = DATASETS.build(config.train_dataloader.dataset)
        while hasattr(training, 'parts'):
            training = training.parts[0]
        seen = images(training)
        assert (len(seen), len(found)) == (point.images, sizes[test])
        assert not set(seen) & set(found)


@pytest.mark.parametrize('point', POINTS.values(), ids=POINTS.keys())
def test_all_runs_of_a_point_have_the_same_number_of_steps(point):
    found = set()
    for arm in arms_of(point):
        config = compose_run(point, arm, 0.1, arm.values[0], False)
        found.add(len(Runner.build_dataloader(config.train_dataloader, seed=0)) * config.train_cfg.max_epochs)
    (count,) = found
    assert abs(count - STEPS) <= 0.02 * STEPS


def test_the_teacher_has_seen_no_held_out_image():
    """Students are chosen by the held-out images, so their teacher must not know them."""
    seen = set(images(DATASETS.build(compose_teacher().train_dataloader.dataset)))
    point, arm = POINTS['rivals'], ARMS['kd']
    held_out, test = (
        images(DATASETS.build(compose_run(point, arm, 0.1, 1.0, each).val_dataloader.dataset))
        for each in (False, True)
    )
    assert len(seen) == TEACHER_IMAGES
    assert not seen & set(held_out)
    assert not seen & set(test)


def test_rivals_at_once_their_weights_are_the_published_ones():
    for name in POINTS['rivals'].arms:
        own = compose_run(POINTS['rivals'], ARMS[name], 0.1, 1.0, False).model
        published = compose(cell(f'rivals/mini_fashion/{name}', 'mini')).model
        once, twice = (
            [value_at(compose_run(POINTS['rivals'], ARMS[name], 0.1, times, False), key) for key in ARMS[name].keys]
            for times in (1.0, 2.0)
        )
        assert twice == pytest.approx([2 * value for value in once])
        for key in ARMS[name].keys:  # okd leaves its weight to the default of the class
            assert value_at(dict(model=published), key, 1.0) == value_at(dict(model=own), key)
        assert own.head.loss == published.head.loss
        assert set(own.supervisions) == set(published.supervisions)


def test_learning_rates_come_from_an_arm_that_chooses_them():
    for point in POINTS.values():
        place, arm = rate_source(point)
        assert arm.setting == 'lr'
        assert arm in arms_of(place)
        assert (place.images, place.classes, place.leaf) == (point.images, point.classes, point.leaf)
        assert {ARMS[name].views for name in point.arms if name == point.reference} == {arm.views}


def test_every_arm_has_as_many_trials():
    assert {len(arm.values) for arm in ARMS.values()} == {4}
    assert all(arm.values == tuple(sorted(arm.values)) for arm in ARMS.values())
    assert all(arm.published in (None, *WEIGHTS) for arm in ARMS.values())


def test_no_two_runs_have_one_fingerprint():
    marks = {}
    for (point, arm), test in itertools.product(PAIRS, (False, True)):
        for value in arm.values:
            mark = fingerprint(compose_run(point, arm, 0.1, value, test))
            assert marks.setdefault(mark, (point.name, arm.name, value, test)) == (point.name, arm.name, value, test)
    assert len(marks) == 8 * len(PAIRS)
    again = fingerprint(compose_run(POINTS['grey-300'], ARMS['supcon'], 0.1, 0.3, True))
    assert marks[again] == ('grey-300', 'supcon', 0.3, True)


@pytest.mark.parametrize(('point', 'arm'), PAIRS, ids=[f'{point.name}-{arm.name}' for point, arm in PAIRS])
def test_every_arm_takes_a_step(point, arm, teacher):
    config = compose_run(point, arm, 0.1, arm.values[-1], False)
    if arm.taught:
        place_teacher(config.model, teacher)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    for supervision in model.supervisions.values():
        supervision.prepare(torch.arange(point.images) % point.classes)
    batch = model.data_preprocessor(next(iter(loader)), True)
    unlabelled = BATCH // 2 if arm.unlabelled else 0
    assert batch['inputs'].shape[-5:-3] == (arm.views, BATCH + unlabelled) or arm.views == 1
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    assert (labels < 0).sum() == unlabelled
    losses = model(**batch, mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name.rpartition('.')[2])
    assert total.isfinite()
    total.backward()
    if arm.published is None:
        assert [value_at(config, key) for key in arm.keys] == [arm.values[-1]]


def test_names_are_checked():
    assert chosen(POINTS, 'grey-300,colour-8', 'point') == [POINTS['grey-300'], POINTS['colour-8']]
    assert chosen(ARMS, 'all', 'arm') == list(ARMS.values())
    with pytest.raises(ConfigError, match=r"arm 'subcon' is not known\. Choose among one, both, supcon"):
        chosen(ARMS, 'subcon', 'arm')
