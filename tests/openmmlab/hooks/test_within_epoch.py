"""A run that ends within an epoch goes on at the next step, with the views that the images would have got."""

import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NO_REPORT, few_images
from mmengine.registry import DefaultScope
from run_state import same, state_of

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import SafeCheckpointHook, stop
from mmcds.openmmlab.hooks.stop import StopHook, Stopped
from mmcds.openmmlab.runner import Runner
from mmcds.openmmlab.work_dir import WITHIN, checkpoints, latest_checkpoint, named_checkpoint
from mmcds.views.keyed import SeedByImage, key_by_image

ROOT = Path(__file__).resolve().parents[3]
CONFIG = 'mmcds::cds/resnet18w16_fashion.py'
#: A network that draws numbers itself, and a mean of the weights.
DRAWS = """
_base_ = 'mmcds::cds/resnet18w16_fashion.py'
model = dict(neck=[dict(type='GlobalAveragePooling'), dict(type='DropBetween')])
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage')]
custom_imports = dict(imports=['mmcds', 'drop_between'], allow_failed_imports=False)
"""
DROP = """
from torch import nn
from mmpretrain.registry import MODELS

@MODELS.register_module(force=True)
class DropBetween(nn.Dropout):
    def forward(self, feats):
        return tuple(super(DropBetween, self).forward(feat) for feat in feats)
"""


def train(tool, folder, *options, config=CONFIG, workers=0, batch=8, arguments=('--resume',)):
    quick = [*few_images(32, batch, 10, workers=workers), NO_REPORT]
    command = [str(config), '--work-dir', str(folder), *arguments, '--cfg-options', *quick, 'train_cfg.max_epochs=2']
    return tool('train').main([*command, *options])


@pytest.fixture(autouse=True)
def _no_signal():
    yield
    stop._Signals.number, stop._Signals.wait = None, False


@contextmanager
def stopped_before(step, number=signal.SIGTERM):
    """Let a signal come before a step of the run, which must end with it."""
    look = StopHook.before_train_iter

    def signalled(self, runner, **arguments):
        if runner.iter == step:
            stop._Signals.number = number
        look(self, runner, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopHook, 'before_train_iter', signalled)
        try:
            yield
        except Stopped:
            stop._Signals.number = None
        else:
            pytest.fail('it did not stop')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    from conftest import load_tool

    folder = tmp_path_factory.mktemp('whole')
    train(load_tool, folder)
    return state_of(folder)


@pytest.mark.parametrize('step', [1, 3, 4, 6])
@pytest.mark.parametrize(('before', 'after'), [(0, 0), (2, 1)])
def test_stopped_before_any_step_and_resumed_equals_never_stopped(whole, tool, tmp_path, step, before, after):
    """Steps 0 to 3 are the first epoch, 4 to 7 the second; the number of loading processes changes as well."""
    with stopped_before(step):
        train(tool, tmp_path, workers=before)
    named = Path(named_checkpoint(tmp_path)).name
    assert named == ('epoch_1.pth' if step == 4 else WITHIN.format(step // 4)), 'between epochs nothing is new'
    train(tool, tmp_path, workers=after)
    now = state_of(tmp_path)
    for key, value in whole.items():
        assert same(now[key], value), key
    assert not list(tmp_path.glob(WITHIN.format('*'))), 'the checkpoint of the epoch takes its place'


@pytest.mark.parametrize('step', [2, 7])
def test_what_the_network_draws_and_averages_goes_on_too(tool, tmp_path, monkeypatch, step):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'config.py').write_text(DRAWS)
    (tmp_path / 'drop_between.py').write_text(DROP)
    config = tmp_path / 'config.py'
    train(tool, tmp_path / 'whole', config=config)
    with stopped_before(step):
        train(tool, tmp_path / 'stopped', config=config)
    train(tool, tmp_path / 'stopped', config=config)
    before, now = state_of(tmp_path / 'whole'), state_of(tmp_path / 'stopped')
    assert before['averaged']
    assert same(before, now)


def test_a_kill_costs_no_more_than_the_minutes_between_checkpoints(whole, tool, tmp_path, monkeypatch):
    """Here no time at all: a checkpoint before every step."""

    class Killed(BaseException):
        pass

    def killed(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr('mmengine.hooks.IterTimerHook.after_train_iter', killed)
        with pytest.raises(Killed):
            train(tool, tmp_path, 'default_hooks.checkpoint.minutes=1e-9')
    assert Path(named_checkpoint(tmp_path)).name == WITHIN.format(1)
    assert [path.name for path in checkpoints(tmp_path)] == [WITHIN.format(1), 'epoch_1.pth'], 'none is left behind'
    runner = train(tool, tmp_path)
    assert runner.iter == 8
    assert same(state_of(tmp_path)['weights'], whole['weights'])
    assert same(state_of(tmp_path)['optimiser'], whole['optimiser'])


def test_a_damaged_one_gives_way_to_the_epoch_before(whole, tool, tmp_path):
    with stopped_before(6):
        train(tool, tmp_path)
    within = tmp_path / WITHIN.format(1)
    assert latest_checkpoint(tmp_path) == within
    within.write_bytes(within.read_bytes()[:-100])
    assert latest_checkpoint(tmp_path) == tmp_path / 'epoch_1.pth'
    train(tool, tmp_path)
    assert same(state_of(tmp_path), whole)
    assert not within.exists()


@pytest.mark.filterwarnings('ignore:Detected call of `scheduler.step')
def test_sums_of_gradients_are_not_cut(tool, tmp_path):
    options = ['optim_wrapper.accumulative_counts=4']
    train(tool, tmp_path / 'whole', *options, batch=4)
    with stopped_before(5):
        train(tool, tmp_path / 'stopped', *options, batch=4)
    runner = train(tool, tmp_path / 'stopped', *options, batch=4)
    assert runner.iter == 16
    assert same(state_of(tmp_path / 'whole')['weights'], state_of(tmp_path / 'stopped')['weights'])


@pytest.mark.parametrize('minutes', [0, -1, float('nan')])
def test_minutes_are_positive(minutes):
    with pytest.raises(ConfigError, match=r'checkpoint\.minutes is .*; give a positive number, or None'):
        SafeCheckpointHook(minutes=minutes)


def views(config, rank=0, ranks=1, workers=0, key=7):
    """The views of all images of an epoch by index, and their order."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = Runner.build_dataloader({**config, 'num_workers': workers}, seed=0)
        loader.sampler.rank, loader.sampler.world_size = rank, ranks
        loader.sampler.num_samples = -(-len(loader.dataset) // ranks)
        epoch_key = key_by_image(loader.dataset, shared=workers > 0)
        epoch_key.set(key)
        found, order = {}, []
        for batch in loader:
            for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
                found[sample.sample_idx] = image.numpy().tobytes()
                order.append(sample.sample_idx)
    return found, order


@pytest.fixture(params=['one array', 'files'])
def loader(request, tmp_path, small_images):
    """Settings of a loader whose batches are cut from one array, and of one that reads files."""
    crop, flip = dict(type='RandomResizedCrop', scale=16), dict(type='RandomFlip', prob=0.5, direction='horizontal')
    others = [dict(type='Rotate', angle=30.0, prob=0.8), dict(type='RandomCrop', crop_size=16)]
    if request.param == 'one array':
        crop = dict(type='RandomCrop', crop_size=28, padding=2)
        erase = dict(type='CenteredCutout', length=8)
        pipeline = [dict(type='LoadImage'), dict(type='MultiViewTransform', views=[[crop, flip], [crop, flip, erase]])]
        dataset = dict(type='EmbeddedFashionMNIST', indices=24)
    else:
        views_ = [[crop, flip], others]
        pipeline = [dict(type='LoadImage'), flip, dict(type='MultiViewTransform', views=views_)]
        dataset = dict(type='CustomDataset', data_root=str(small_images))
    return dict(
        batch_size=4,
        num_workers=0,
        collate_fn=dict(type='collate_samples'),
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset={**dataset, 'pipeline': [*pipeline, dict(type='PackSample')]},
    )


@pytest.fixture
def small_images(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(24):
        place = tmp_path / f'images/{"ab"[number % 2]}/{number}.png'
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(place)
    return tmp_path / 'images'


def test_views_depend_on_epoch_and_image_alone(loader):
    alone, order = views(loader)
    assert len(alone) == 24
    assert order != sorted(order)
    for workers in (1, 2):
        found, same_order = views(loader, workers=workers)
        assert found == alone, f'{workers} loading processes'
        assert same_order == order
    assert views({**loader, 'batch_size': 3})[0] == alone, 'whatever else is in a batch'
    halves = [views(loader, rank, 2) for rank in (0, 1)]
    assert {**halves[0][0], **halves[1][0]} == alone, 'two ranks'
    assert sum(len(half[1]) for half in halves) == 24
    other = views(loader, key=8)[0]
    assert sum(other[index] != alone[index] for index in alone) > 20, 'another epoch, other views'


def test_loading_processes_that_stay_see_the_next_epoch(loader):
    settings = {**loader, 'num_workers': 1, 'persistent_workers': True}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        kept = Runner.build_dataloader(settings, seed=0)
        key, found = key_by_image(kept.dataset, shared=True), []
        for number in (7, 8):
            key.set(number)
            found.append({s.sample_idx: image.numpy().tobytes() for b in kept for image, s in pairs(b)})
    assert found == [views(loader, key=7)[0], views(loader, key=8)[0]]


def pairs(batch):
    return zip(batch['inputs'], batch['data_samples'], strict=True)


def test_images_that_are_shown_several_times_are_not_keyed(loader):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        repeated = dict(type='RepeatDataset', times=2, dataset=loader['dataset'])
        dataset = Runner.build_dataloader({**loader, 'dataset': repeated}, seed=0).dataset
        assert key_by_image(dataset, shared=False) is None
        inner = Runner.build_dataloader(loader, seed=0).dataset
        first, second = key_by_image(inner, shared=False), key_by_image(inner, shared=False)
    steps = inner.pipeline.transforms
    assert [isinstance(step, SeedByImage) for step in steps] == [True] + [False] * (len(steps) - 1)
    assert steps[0].key is second is not first


def test_a_signal_to_one_rank_ends_all_with_one_checkpoint(tool, tmp_path, environment):
    """Rank 1 alone gets it; both stop before the same step, and going on equals two ranks that were never stopped."""
    options = [*few_images(64, 4, 8), NO_REPORT, 'train_cfg.max_epochs=3', 'env_cfg.dist_cfg.backend=gloo']

    def start(name):
        command = ['bash', str(ROOT / 'tools/dist_train.sh'), CONFIG, '2', '--work-dir', str(tmp_path / name)]
        log = (tmp_path / f'{name}.log').open('a')
        return subprocess.Popen(
            [*command, '--resume', '--cfg-options', *options], env=environment, stdout=log, stderr=log
        )

    assert start('whole').wait(300) == 0
    process = start('stopped')
    deadline = time.time() + 120
    while not (tmp_path / 'stopped/epoch_1.pth').exists() and time.time() < deadline:
        time.sleep(0.02)
    ranks = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            line, place = (folder / 'cmdline').read_bytes(), (folder / 'environ').read_bytes()
        except OSError:
            continue
        if b'train.py' in line and str(tmp_path / 'stopped').encode() in line and b'torch.distributed' not in line:
            rank = re.search(rb'\0RANK=(\d+)\0', place)
            if rank:
                ranks[int(rank[1])] = int(folder.name)
    os.kill(ranks[1], signal.SIGTERM)
    assert process.wait(120) != 0
    said = (tmp_path / 'stopped.log').read_text()
    assert said.count('mmcds: stopped by SIGTERM.') == 2
    assert ']: Traceback' not in said
    named = Path(named_checkpoint(tmp_path / 'stopped')).name
    assert named != 'epoch_3.pth', 'it was stopped before the end'
    assert start('stopped').wait(300) == 0
    assert same(state_of(tmp_path / 'stopped')['weights'], state_of(tmp_path / 'whole')['weights'])


@pytest.mark.parametrize('batch', [4, 16])
def test_a_run_resumed_with_epochs_of_another_length_trains_every_step_of_them(tool, tmp_path, batch):
    train(tool, tmp_path)
    runner = train(tool, tmp_path, 'train_cfg.max_epochs=4', batch=batch)
    steps = 32 // batch
    assert (runner.epoch, runner.iter, runner.max_iters) == (4, 8 + 2 * steps, 8 + 2 * steps)
    lines = [json.loads(line) for line in Path(runner.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()]
    trained = [line['epoch'] for line in lines if 'loss' in line]
    assert trained == [3] * steps + [4] * steps
    again = train(tool, tmp_path, 'train_cfg.max_epochs=5', batch=batch)
    assert (again.epoch, again.iter, again.max_iters) == (5, 8 + 3 * steps, 8 + 3 * steps)
    assert 'the run goes on with epoch 3' in Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert 'the run goes on' not in Path(again.log_dir, f'{again.timestamp}.log').read_text()


@pytest.mark.parametrize('batch', [4, 16])
def test_within_an_epoch_a_run_is_not_resumed_with_epochs_of_another_length(tool, tmp_path, batch):
    with stopped_before(6):
        train(tool, tmp_path)
    message = f'saved after 2 steps of epoch 2, and an epoch had 4 steps, but has {32 // batch} now'
    with pytest.raises(ConfigError, match=message):
        train(tool, tmp_path, batch=batch)


def test_a_checkpoint_without_the_place_in_the_epoch_goes_on_where_it_was(whole, tool, tmp_path):
    with stopped_before(6):
        train(tool, tmp_path)
    file = latest_checkpoint(tmp_path)
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint.pop('position') == dict(steps=4, began=4, epoch=1)
    torch.save(checkpoint, file)
    runner = train(tool, tmp_path)
    assert runner.iter == 8
    assert same(state_of(tmp_path)['weights'], whole['weights'])


@pytest.mark.parametrize('batch', [4, 8, 16])
def test_without_its_place_a_checkpoint_between_epochs_goes_on_with_a_whole_one(tool, tmp_path, batch):
    train(tool, tmp_path)
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    del checkpoint['position']
    torch.save(checkpoint, tmp_path / 'epoch_2.pth')
    assert train(tool, tmp_path, 'train_cfg.max_epochs=3', batch=batch).iter == 8 + 32 // batch


def test_a_checkpoint_by_steps_at_the_end_of_an_epoch_does_not_repeat_it(tool, tmp_path):
    by_steps = ['default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.by_epoch=False']
    by_steps += ['default_hooks.checkpoint.save_best=None', 'default_hooks.checkpoint.max_keep_ckpts=-1']
    train(tool, tmp_path, *by_steps)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_4.pth'))
    runner = train(tool, tmp_path, *by_steps)
    assert (runner.epoch, runner.iter, runner.max_iters) == (2, 8, 8)
