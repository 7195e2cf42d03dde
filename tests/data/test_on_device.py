"""Views cut on the device: the batches of the loading processes to the last bit, without a wait."""

import signal

import numpy as np
import pytest
import torch
from conftest import NO_REPORT, few_images
from fake_gpu import Waits, move_to_gpu
from mmengine.dataset import RepeatDataset
from mmengine.registry import DefaultScope
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmpretrain.registry import TRANSFORMS
from replicas import write_cifar10
from run_state import same, state_of
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError
from mmcds.data import EmbeddedEmoji, EmbeddedFashionMNIST
from mmcds.data.on_device import DeviceLoader
from mmcds.openmmlab.hooks import stop
from mmcds.openmmlab.hooks.stop import StopHook, Stopped
from mmcds.openmmlab.loop import ResumableTrainLoop
from mmcds.openmmlab.runner import Runner
from mmcds.views.keyed import key_by_image
from mmcds.views.preprocessor import CDSDataPreprocessor

LISTED: dict = {}
CONFIG = 'mmcds::cds/resnet18w16_fashion.py'
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
CROP = dict(type='RandomCrop', crop_size=28, padding=2)
ERASE = dict(type='CenteredCutout', length=8)
CUT = dict(type='RandomCrop', crop_size=(40, 20))  # taller than the images: all rows
#: Three views whose padding has two values and all forms: one number, two and four.
PADDED = [
    [dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(10, 20, 30)), FLIP],
    [dict(type='RandomCrop', crop_size=32, padding=(1, 2, 3, 6), pad_val=(200, 0, 7))],
    [dict(type='RandomCrop', crop_size=32, padding=(5, 1), pad_val=(10, 20, 30)), FLIP, ERASE],
    [],
]


def pipeline(views, order='bgr', **settings):
    views = dict(type='MultiViewTransform', views=views, color_on='device', **settings)
    return [dict(type='LoadImage', array_order=order), views, dict(type='PackSample')]


def fashion(views=([CROP, FLIP], [CROP, FLIP, ERASE]), indices=26, **settings):
    return dict(type='EmbeddedFashionMNIST', indices=indices, pipeline=pipeline(views, **settings))


def settings(dataset, **others):
    return dict(
        dict(
            batch_size=4,
            num_workers=0,
            collate_fn=dict(type='collate_samples'),
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dataset,
        ),
        **others,
    )


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """The first images of the embedded sets, read once."""
    for kind in (EmbeddedEmoji, EmbeddedFashionMNIST):

        def first(dataset, read=kind.load_data_list):
            key = type(dataset), dataset.test_mode
            if key not in LISTED:
                LISTED[key] = read(dataset)[:100]
            return [dict(info) for info in LISTED[key]]

        monkeypatch.setattr(kind, 'load_data_list', first)


def build(config, on_device=True, rank=0, ranks=1, seed=0):
    loader = Runner.build_dataloader({**config, 'on_device': on_device}, seed=seed)
    assert isinstance(loader, DeviceLoader) is bool(on_device)
    sampler = inner_sampler(loader)
    sampler.rank, sampler.world_size, sampler.num_samples = rank, ranks, -(-len(loader.dataset) // ranks)
    return loader


def inner_sampler(loader):
    """The one that knows epoch and rank, where MMEngine's hook looks for it too."""
    return loader.sampler if hasattr(loader.sampler, 'set_epoch') else loader.batch_sampler.sampler


def epochs(loader, keys=(7, 8)):
    """All batches of some epochs, as MMEngine's loop and EpochSeedHook run them."""
    key = key_by_image(loader.dataset, shared=loader.num_workers > 0)
    found = []
    for epoch, number in enumerate(keys):
        inner_sampler(loader).set_epoch(epoch)
        key.set(number)
        found += list(loader)
    return found


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for here, there in zip(ours, theirs, strict=True):
        assert here.keys() == there.keys() == {'inputs', 'data_samples'}
        assert here['inputs'].dtype == torch.uint8
        assert here['inputs'].is_contiguous()
        assert torch.equal(here['inputs'], there['inputs'])
        ours, theirs = here['data_samples'], there['data_samples']
        assert ours.metas == theirs.metas
        assert torch.equal(ours.labels, theirs.labels)
        moved, expected = ours.to('cpu'), theirs.to('cpu')
        assert torch.equal(moved.labels, expected.labels)
        assert moved.num_labelled == expected.num_labelled
        assert [sample.gt_label for sample in moved] == [sample.gt_label for sample in theirs]


SEMI = dict(type='SemiBatchSampler', num_unlabelled=3)
CASES = dict(
    fashion=settings(fashion(), drop_last=True),
    rest=settings(fashion()),
    emoji=settings(dict(type='EmbeddedEmoji', indices=26, pipeline=pipeline(PADDED, 'rgb'))),
    subset=settings(fashion(indices=[9, 3, 99, 77, 5, 6])),
    semi=settings(
        dict(type='PartiallyLabelledDataset', per_class=2, dataset=fashion(indices=80)),
        batch_sampler=SEMI,
        batch_size=8,
    ),
    noisy=settings(dict(type='NoisyLabels', share=0.4, dataset=fashion([[FLIP]], indices=40))),
    cifar=settings(dict(type='InMemoryCIFAR10', split='train', pipeline=pipeline([[CUT, FLIP], [CUT]], 'rgb'))),
)


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('case', CASES)
def test_batches_are_those_of_the_usual_loader(case, seed, tmp_path, any_checksum):
    config = CASES[case]
    if case == 'cifar':
        write_cifar10(tmp_path)
        config = {**config, 'dataset': {**config['dataset'], 'data_root': str(tmp_path)}}
    usual, ours = build(config, False, seed=seed), build(config, seed=seed)
    assert len(ours) == len(usual)
    for name in ('batch_size', 'drop_last', 'num_workers'):
        assert getattr(ours, name) == getattr(usual, name)
    keys = (seed, 2**40 + seed)
    batches = epochs(ours, keys)
    assert_equal(batches, epochs(usual, keys))
    half = len(batches) // 2
    assert not torch.equal(batches[0]['inputs'], batches[half]['inputs']), 'another epoch, other views'


@pytest.mark.parametrize('times', [1, 2])
def test_without_keys_the_numbers_come_from_the_stream_of_the_process(times):
    """As in the usual loader without processes; a repeated image gets other views each time."""
    found = []
    for on_device in (True, False):
        loader = build(settings(fashion()), on_device)
        np.random.seed(3)
        found.append([batch for _ in range(times) for batch in loader])
    assert_equal(*found)


def test_a_repeated_data_set_shows_every_image_so_many_times():
    mirrored = [[dict(type='RandomFlip', prob=1.0, direction='horizontal')], []]
    config = settings(dict(type='RepeatDataset', times=3, dataset=fashion(mirrored, 10)))
    loaders = [build(config, on_device) for on_device in (True, False)]
    assert isinstance(loaders[0].dataset, RepeatDataset)
    assert len(loaders[0]) == 8
    assert_equal(*map(list, loaders))
    several = build(settings(dict(type='RepeatDataset', times=3, dataset=fashion(indices=2)), batch_size=6))
    (batch,) = several
    first = batch['inputs'][[meta['sample_idx'] == 0 for meta in batch['data_samples'].metas]]
    assert len(first) == 3
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize('case', ['fashion', 'semi'])
def test_the_batches_of_two_ranks_are_those_of_one_process(case):
    def images(loaders):
        return sorted(
            (epoch, meta['sample_idx'], label, image.numpy().tobytes())
            for loader in loaders
            for epoch in (0, 1)
            for batch in epochs(loader, (epoch,))
            for image, label, meta in zip(
                batch['inputs'], batch['data_samples'].labels.tolist(), batch['data_samples'].metas, strict=True
            )
        )

    config = settings(fashion(indices=24))
    if case == 'semi':
        config = {**CASES['semi'], 'batch_sampler': {**SEMI, 'epoch': 2}}
        halves = [
            build(
                {**config, 'batch_size': 4, 'batch_sampler': {**config['batch_sampler'], 'num_unlabelled': 2}},
                rank=rank,
                ranks=2,
            )
            for rank in (0, 1)
        ]
        config['batch_sampler']['num_unlabelled'] = 4
    else:
        halves = [build(config, rank=rank, ranks=2) for rank in (0, 1)]
    alone = images([build(config)])
    assert images(halves) == alone
    assert len(alone) == (48 if case == 'fashion' else 32)


def test_an_epoch_goes_on_within():
    loader = build(CASES['fashion'])
    key_by_image(loader.dataset, shared=False).set(5)
    loop = ResumableTrainLoop.__new__(ResumableTrainLoop)
    loop.dataloader = loader
    whole = list(loop._rest(0))
    assert len(whole) == len(loader) == 6
    for done in (1, 4):
        assert_equal(list(loop._rest(done)), whole[done:])
    assert_equal(list(loader), whole)


def test_a_sampler_without_end_goes_on_and_skips_what_a_resumed_run_has_seen():
    config = settings(fashion(), sampler=dict(type='InfiniteSampler', shuffle=True))
    found = []
    for on_device in (True, False):
        loader = Runner.build_dataloader({**config, 'on_device': on_device}, seed=0)
        key_by_image(loader.dataset, shared=False).set(7)
        batches = _InfiniteDataloaderIterator(loader)
        batches.skip_iter(3)
        found.append([next(batches) for _ in range(9)])
    assert_equal(*found)


def train(tool, folder, *arguments):
    quick = [*few_images(32, 8, 10), NO_REPORT]
    command = [CONFIG, '--work-dir', str(folder), *arguments, '--cfg-options', *quick, 'train_cfg.max_epochs=2']
    return tool('train').main(command)


def test_a_training_is_the_same_stopped_and_resumed_too(tool, tmp_path, monkeypatch):
    train(tool, tmp_path / 'usual')
    runner = train(tool, tmp_path / 'ours', '--data-on-device')
    assert isinstance(runner.train_dataloader, DeviceLoader)
    usual = state_of(tmp_path / 'usual')
    assert len(usual['losses']) == 8
    assert same(state_of(tmp_path / 'ours'), usual)
    look = StopHook.before_train_iter

    def stopped(self, runner, **others):
        stop._Signals.number = signal.SIGTERM if runner.iter == 6 else None
        look(self, runner, **others)

    with monkeypatch.context() as patch:
        patch.setattr(StopHook, 'before_train_iter', stopped)
        with pytest.raises(Stopped):
            train(tool, tmp_path / 'stopped', '--data-on-device')
    stop._Signals.number, stop._Signals.wait = None, False
    train(tool, tmp_path / 'stopped', '--data-on-device', '--resume')
    assert same(state_of(tmp_path / 'stopped')['weights'], usual['weights'])


def test_a_batch_is_one_copy_and_few_kernels_and_nothing_waits(monkeypatch):
    usual = build(settings(dict(type='EmbeddedEmoji', indices=26, pipeline=pipeline(PADDED, 'rgb'))), False)
    preprocessor = CDSDataPreprocessor(num_classes=58, mean=[0.0] * 3, std=[1.0] * 3, view_colors=())
    pinned = []
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda tensor: pinned.append(tensor) or tensor)
    with FakeTensorMode(allow_non_fake_inputs=True):
        loader = DeviceLoader(usual, 'cuda')
        loader._pinned = True  # as where there is a GPU
        move_to_gpu(preprocessor)
        with Waits() as counted:
            batch = loader.read([3, 1, 2])
        assert batch['inputs'].is_cuda
        assert batch['inputs'].shape == (3, 4, 3, 32, 32)
        assert not counted.found, 'the host waits'
        assert counted.kernels['_to_copy'] == len(pinned) == 1
        assert sum(counted.kernels.values()) <= 7, counted.kernels
        with Waits() as counted:
            samples = preprocessor(batch, True)['data_samples']
        assert not counted.found, 'the host waits for labels'
        assert samples.labels.is_cuda
        assert samples.num_labelled == 3


def test_labels_are_checked_as_in_other_batches():
    batch = next(iter(build(settings(fashion()))))
    preprocessor = CDSDataPreprocessor(num_classes=int(batch['data_samples'].labels.max()))
    with pytest.raises(ConfigError, match='labels must be -1'):
        preprocessor(batch, True)


def test_settings_of_loading_processes_do_not_matter():
    processes = dict(num_workers=2, persistent_workers=True, prefetch_factor=4, pin_memory=True)
    others = dict(worker_init_fn=dict(type='seed_worker'), multiprocessing_context='spawn')
    ours = build({**CASES['rest'], **processes, **others})
    assert ours.num_workers == 0
    assert_equal(epochs(ours), epochs(build(CASES['rest'])))


def views(*steps, **others):
    return settings(fashion([[*steps]], **others))


def with_color(**color):
    dataset = fashion()
    dataset['pipeline'][1].update(color)
    return settings(dataset)


CROPPED = dict(type='RandomResizedCrop', scale=28)
REFUSED = {
    'view 0 of MultiViewTransform has a RandomResizedCrop': views(CROPPED),
    'view 0 of MultiViewTransform has transforms that need a loading process': with_color(
        views=[[dict(type='Invert', prob=1.0)]], color_on='auto'
    ),
    "view 1 of MultiViewTransform gets its colours in the loading process .color_on is 'worker'": with_color(
        color_on='worker'
    ),
    "gets its colours in the loading process .color_on is 'auto'": with_color(color_on='auto'),
    r'the views have sizes \[\(20, 20\), \(28, 28\)\]. Give all pipelines one crop size': settings(
        fashion([[CROP], [dict(type='RandomCrop', crop_size=20)]])
    ),
    'the pipeline is not LoadImage, MultiViewTransform and PackSample alone': settings(
        dict(type='EmbeddedFashionMNIST', indices=8, pipeline=[dict(type='LoadImage'), dict(type='PackSample')])
    ),
    'PackSample alone, or images differ': settings(
        dict(type='EmbeddedFashionMNIST', indices=8, pipeline=[*pipeline([[]])[:1], FLIP, *pipeline([[]])[1:]])
    ),
    'ConcatDataset does not hold its images as one array, as InMemoryCIFAR100 does': settings(
        dict(type='ConcatDataset', datasets=[fashion(), fashion()])
    ),
    'PartiallyLabelledDataset reads the images of `unlabelled` from a second': settings(
        dict(type='PartiallyLabelledDataset', dataset=fashion(), unlabelled=fashion())
    ),
}


@pytest.mark.parametrize('text', REFUSED)
def test_what_cannot_be_cut_on_the_device_is_refused(text):
    with pytest.raises(ConfigError, match=text) as error:
        build(REFUSED[text])
    assert '\n' not in str(error.value)
    assert ('eave on_device (--data-on-device) out.' in str(error.value)) is ('crop size' not in text)


@TRANSFORMS.register_module()
class Passing:
    """A step that takes batches, and might change them."""

    def __call__(self, results):
        return results

    def transform_batch(self, images, indices=None):
        return images


def test_other_steps_that_take_batches_are_refused():
    dataset = fashion()
    dataset['pipeline'].insert(1, dict(type='Passing'))
    assert_equal(epochs(build(settings(dataset), False)), epochs(build(settings(fashion()), False)))
    with pytest.raises(ConfigError, match='the pipeline is not'):
        build(settings(dataset))


def test_the_set_may_take_half_of_the_free_memory(monkeypatch):
    size = 26 * 3 * 29 * 29
    build(settings(fashion()), dict(max_gb=size / 2**30))
    with pytest.raises(ConfigError, match=r'26 images of EmbeddedFashionMNIST take 0\.000 GB.*Leave on_device'):
        build(settings(fashion()), dict(max_gb=(size - 1) / 2**30))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    usual = build(settings(fashion()), False)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (2 * size, 10**9))
    DeviceLoader(usual, 'cpu')
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda: (2 * size - 2, 10**9))
    with pytest.raises(ConfigError, match='half of the free memory of the GPU'):
        DeviceLoader(usual, 'cpu')


@pytest.mark.parametrize('wish', [1.5, 'yes', dict(max_mb=3), dict(max_gb='2'), dict(max_gb=1, device='cuda')])
def test_a_setting_that_means_nothing_is_refused(wish):
    with pytest.raises(ConfigError, match=r'on_device of a loader is .* Set it to True, False, or dict\(max_gb'):
        build(settings(fashion()), wish)


def test_without_it_loaders_are_as_they_were():
    assert type(Runner.build_dataloader(settings(fashion()), seed=0)) is DataLoader
    assert type(build(settings(fashion()), None)) is DataLoader
