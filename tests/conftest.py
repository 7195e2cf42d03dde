"""What the tests share: quiet hosts, one small network, replicas of the data sets."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

import replicas  # noqa: E402

import mmcds  # noqa: E402, F401

#: Options that make the execution of a config short: no worker, few images to validate on, one checkpoint.
ONE_STEP = [
    'train_dataloader.num_workers=0',
    'val_dataloader.batch_size=3',
    'val_dataloader.num_workers=0',
    'val_dataloader.dataset.indices=6',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    'default_hooks.checkpoint.save_best=None',
    'optim_wrapper.optimizer.lr=1e-4',
]


def load_tool(name: str):
    """Import tools/NAME.py as a module, so that its main() can be called with arguments."""
    spec = importlib.util.spec_from_file_location(f'tools_{name}', ROOT / 'tools' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forget_runs() -> None:
    """Drop a runner's global state: a run of the same second would go on with the visualizer of the one before."""
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for manager in (MessageHub, Visualizer, MMLogger, DefaultScope):
        manager._instance_dict.clear()


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch):
    """Every test starts without a runner's global state and leaves the default scope as it was."""
    forget_runs()
    torch.manual_seed(0)
    monkeypatch.setenv('MMCDS_DATA_ROOT', '')  # --data-root sets it; this takes it away again after the test
    monkeypatch.delenv('MMCDS_DATA_ROOT')


@pytest.fixture
def tool():
    return load_tool


@pytest.fixture(scope='session')
def data_root(tmp_path_factory) -> Path:
    """A folder with a replica of every data set that a config names, in its true on-disk format."""
    root = tmp_path_factory.mktemp('data')
    replicas.write_cifar10(root / 'cifar10')
    replicas.write_cifar100(root / 'cifar100')
    replicas.write_imagenet(root / 'imagenet')
    return root


@pytest.fixture
def any_checksum(monkeypatch):
    """The host compares CIFAR files with the checksums of the real ones; a replica has others."""
    monkeypatch.setattr('mmpretrain.datasets.cifar.check_md5', lambda path, md5: True)


def child_environment() -> dict[str, str]:
    """Environment of child processes: this interpreter's scripts first, one thread each."""
    return {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
    }


@pytest.fixture
def environment() -> dict[str, str]:
    return child_environment()
