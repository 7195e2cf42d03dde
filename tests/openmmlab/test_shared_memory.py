"""A loader gets no more processes than shared memory has place for, and its images stay what they were."""

import random
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import few_images
from mmcv.transforms import BaseTransform
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mmcds.openmmlab import shared_memory
from mmcds.openmmlab.runner import Runner
from mmcds.openmmlab.shared_memory import PAGE, fit_workers, shared_bytes
from mmcds.views.keyed import EpochKey

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple('Usage', 'total used free')


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch):
    monkeypatch.setattr(torch._utils, 'cpu_count', lambda: 64)  # PyTorch warns of more processes than cores


def loader(workers=8, batch=16, **other):
    images = TensorDataset(torch.zeros(64, 3, 64, 64), torch.zeros(64, dtype=torch.long))
    return DataLoader(images, batch, num_workers=workers, **other)


@pytest.fixture
def free(monkeypatch):
    """Set what is free in shared memory."""
    return lambda amount: monkeypatch.setattr(shutil, 'disk_usage', lambda _: Usage(amount, 0, amount))


def test_a_tensor_takes_whole_pages_and_other_things_nothing():
    batch = dict(inputs=[torch.zeros(3, 1000), torch.zeros(1)], names=['a'] * 10, size=np.zeros(10_000))
    assert shared_bytes(batch) == 3 * PAGE + PAGE
    assert shared_bytes(torch.zeros(100, 1024)[:1]) == 100 * PAGE, 'the whole storage is shared'


# A batch of 16 images takes 16 x 3 x 64 x 64 x 4 bytes, and 2 labels of a page or less: 768 KiB and at most 32 KiB;
# each process has two batches in flight, and half of what is free may be used.
@pytest.mark.parametrize(
    'megabytes, ranks, prefetch, workers',
    [(100, 1, None, 8), (12, 1, None, 3), (12, 2, None, 1), (12, 1, 1, 7), (1, 1, None, 0)],
)
def test_as_many_processes_as_fit_are_used(free, monkeypatch, megabytes, ranks, prefetch, workers):
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    free(megabytes * 2**20)
    data = loader(prefetch_factor=prefetch)
    fit_workers(data)
    assert data.num_workers == workers


def test_without_processes_or_images_nothing_is_measured(free, monkeypatch):
    free(0)
    monkeypatch.setattr(shared_memory, 'batch_bytes', lambda _: pytest.fail('it was measured'))
    fit_workers(loader(workers=0))
    fit_workers(DataLoader(TensorDataset(torch.zeros(0, 3)), 2, num_workers=2))


class Draws(BaseTransform):
    def transform(self, results):
        return dict(inputs=torch.tensor([random.random(), np.random.rand(), float(torch.rand(()))]))


class DrawnImages(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return Draws()({})


def test_measuring_draws_no_random_numbers(free):
    free(2**20)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = Draws()({})['inputs']
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    images = [Draws()] * 4
    data = DataLoader(
        type('Set', (), dict(__len__=lambda _: 4, __getitem__=lambda _, i: images[i]({})))(), 2, num_workers=2
    )
    fit_workers(data)
    assert torch.equal(Draws()({})['inputs'], expected)


def test_whole_batches_and_batch_samplers_are_measured(free):
    """Twice the images take twice the memory, whoever puts a batch together."""
    from mmengine.config import Config

    found = []
    for factor in (1, 2):
        config = Config.fromfile(ROOT / 'configs/cds/resnet18w16_fashion.py').train_dataloader
        config.update(num_workers=0, batch_size=32 * factor)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            found.append(shared_memory.batch_bytes(Runner.build_dataloader(config)))
    assert found[1] == pytest.approx(2 * found[0], rel=0.2)
    assert found[0] >= 2 * 32 * 3 * 32 * 32, 'two views of 32 images'


def has_namespaces():
    line = ['unshare', '-rm', 'mount', '-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', '/dev/shm']
    return shutil.which('unshare') and not subprocess.run(line, capture_output=True, check=False).returncode


@pytest.mark.skipif(not has_namespaces(), reason='this system lets nobody mount a small /dev/shm')
def test_a_training_in_200_kb_ends(tmp_path, environment):
    options = few_images(64, 32, 20, workers=2, val_workers=2)
    training = (
        f'{sys.executable} tools/train.py configs/cds/resnet18w16_fashion.py --work-dir {tmp_path} --cfg-options '
    )
    training += ' '.join([*options, 'train_cfg.max_epochs=1'])
    mount = 'mount -t tmpfs -o size=200k tmpfs /dev/shm && exec '
    ended = subprocess.run(
        ['unshare', '-rm', 'bash', '-c', mount + training],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert not ended.returncode, ended.stderr[-2000:]
    assert ended.stdout.count('too little for the 2 loading processes') >= 1
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_a_key_that_cannot_be_shared_is_seen_as_it_was_when_the_processes_start(monkeypatch):
    def full(self):
        raise RuntimeError('unable to allocate shared memory(shm)')

    monkeypatch.setattr(torch.Tensor, 'share_memory_', full)
    key = EpochKey(shared=True)
    key.set(2**64 - 5)
    assert not key._value.is_shared()
    assert key.get() == 2**63 - 5, 'modulo 2**63'
