"""The plan of the study: what runs of a point have in common, what tells arms apart, and that every config trains."""

import itertools

import pytest
import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.runner import Runner
from mmcds.study.plan import ARMS, BATCH, POINTS, REFERENCE, STEPS, arms_of, chosen, compose_run, fingerprint

PAIRS = [(point, arm) for point in POINTS.values() for arm in arms_of(point)]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def images(dataset):
    return [dataset.get_data_info(index)['img'].tobytes() for index in range(len(dataset))]


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


def test_every_arm_has_as_many_trials():
    assert {len(arm.values) for arm in ARMS.values()} == {4}
    assert all(arm.values == tuple(sorted(arm.values)) for arm in ARMS.values())


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
def test_every_arm_takes_a_step(point, arm):
    config = compose_run(point, arm, 0.1, arm.values[-1], False)
    loader = Runner.build_dataloader(config.train_dataloader, seed=0)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    batch = model.data_preprocessor(next(iter(loader)), True)
    unlabelled = BATCH // 2 if arm.unlabelled else 0
    assert batch['inputs'].shape[-5:-3] == (arm.views, BATCH + unlabelled) or arm.views == 1
    labels = torch.cat([sample.gt_label for sample in batch['data_samples']])
    assert (labels < 0).sum() == unlabelled
    losses = model(**batch, mode='loss')
    total = sum(value for name, value in losses.items() if 'loss' in name.rpartition('.')[2])
    assert total.isfinite()
    total.backward()
    value = config
    for key in arm.setting.split('.'):
        value = value[key]
    assert value == arm.values[-1]


def test_names_are_checked():
    assert chosen(POINTS, 'grey-300,colour-8', 'point') == [POINTS['grey-300'], POINTS['colour-8']]
    assert chosen(ARMS, 'all', 'arm') == list(ARMS.values())
    with pytest.raises(ConfigError, match=r"arm 'subcon' is not known\. Choose among one, both, supcon"):
        chosen(ARMS, 'subcon', 'arm')
