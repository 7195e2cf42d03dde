"""What the tests share: quiet libraries, one small network, replicas of the data sets."""

import gc
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config.utils import load as read_metafile

ROOT = Path(__file__).resolve().parents[1]

import replicas  # noqa: E402

import mmcds.openmmlab  # noqa: E402, F401

# What was imported is no garbage.
gc.freeze()

#: Metafiles of packages, by place.
METAFILE = cache(read_metafile)

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

#: Leaves the exports and the curves at the end of a run away, which take longer than a few steps.
NO_REPORT = 'default_hooks.report=None'


def few_images(train: int, batch: int, val: int, workers: int = 0, val_workers: int = 0) -> list[str]:
    """Options that make the epochs of a config on the embedded images short, and log every step."""
    return [
        f'train_dataloader.dataset.indices={train}',
        f'train_dataloader.batch_size={batch}',
        f'train_dataloader.num_workers={workers}',
        f'val_dataloader.dataset.indices={val}',
        f'val_dataloader.num_workers={val_workers}',
        'default_hooks.logger.interval=1',
    ]


#: Files and fixtures whose tests run trainings or other processes.
SLOW_FILES = (
    'test_all_baselines.py',
    'test_plan.py',
    'test_study.py',
    'test_waits.py',
    'test_baseline_configs.py',
    'test_configs.py',
    'test_pretraining_configs.py',
    'test_semi_and_distill.py',
    'test_distributed.py',
    'test_install.py',
    'test_detection_configs.py',
    'test_training.py',
    'test_scenes.py',
    'test_paper.py',
    'test_recipe.py',
    'test_safe_checkpoint.py',
    'test_within_epoch.py',
    'test_signals.py',
    'test_own_data_guide.py',
    'test_untrusted.py',
    'test_batch.py',
    'test_released.py',
    'test_probe.py',
    'test_tools.py',
    'test_networks.py',
    'test_ranks.py',
    'test_behaviour.py',
    'test_export.py',
    'test_registration.py',
    'test_fine_grained.py',
    'test_compile.py',
    'test_teacher.py',
    'test_cds.py',
    'test_check.py',
    'test_hooks.py',
    'test_in_memory.py',
    'test_benchmarks.py',
    'test_gpu_benchmark.py',
    'test_zoo.py',
    'test_site.py',
    'test_notebooks.py',
    'test_journeys.py',
    'test_hosts.py',
    'test_detection_page.py',
    'test_hub.py',
    'test_own_data.py',
    'test_on_device.py',
    'test_fused.py',
    'test_color_kernel.py',
    'test_cuda_graph.py',
    'test_compression.py',
    'test_ring.py',
    'test_faults.py',
    'test_unreadable.py',
    'test_shared_memory.py',
)
SLOW_FIXTURES = {'tool', 'data_root', 'environment', 'ranks'}


def pytest_collection_modifyitems(items):
    """Mark the slow tier; ``make test-fast`` leaves it out."""
    for item in items:
        if Path(item.fspath).name in SLOW_FILES or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def check_accuracy(runner) -> None:
    """The last validation counted every image once: its accuracy is a whole number of them, in percent."""
    counted = runner.message_hub.get_scalar('val/accuracy/top1').current() / 100 * len(runner.val_dataloader.dataset)
    assert counted == pytest.approx(round(counted), abs=1e-3)
    assert 0 <= round(counted) <= len(runner.val_dataloader.dataset)


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

    managers = [MessageHub, Visualizer, MMLogger, DefaultScope]
    while managers:  # every class, such as MMPretrain's own visualizer, keeps its instances itself
        manager = managers.pop()
        manager._instance_dict.clear()
        managers += manager.__subclasses__()


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch):
    """Every test starts without a runner's global state and leaves the default scope as it was."""
    forget_runs()
    # A run formats its config, which takes longer than many a test; the text means the same unformatted.
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
    # A path PACKAGE::CONFIG reads the hundred YAML files of that package, each time.
    monkeypatch.setattr('mmengine.config.utils.load', METAFILE)
    # MMEngine looks for garbage at every data set, among all that was ever imported.
    monkeypatch.setattr('mmengine.dataset.base_dataset.gc', SimpleNamespace(collect=lambda: 0))
    # The tests survive kills of processes; what a power cut leaves, no test can see.
    monkeypatch.setattr('os.fsync', lambda descriptor: None)
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
    replicas.write_cub(root / 'CUB_200_2011')
    replicas.write_cars(root / 'stanford_cars')
    replicas.write_flowers(root / 'flowers102')
    replicas.write_dogs(root / 'stanford_dogs')
    replicas.write_aircraft(root / 'fgvc-aircraft-2013b')
    return root


@pytest.fixture(scope='session')
def data(tmp_path_factory) -> Path:
    """Replicas with enough images of every class for some of them to lose their label."""
    root = tmp_path_factory.mktemp('data')
    replicas.write_cifar10(root / 'cifar10')
    replicas.write_cifar100(root / 'cifar100', train=300)
    replicas.write_imagenet(root / 'imagenet')
    return root


@pytest.fixture
def any_checksum(monkeypatch):
    """MMPretrain compares CIFAR files with the checksums of the real ones; a replica has others."""
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


def build_on_meta(model, scope='mmpretrain'):
    """Build a model of a host without data, so that its shapes cost nothing."""
    from functools import partial

    from mmengine.registry import MODELS, DefaultScope

    with (
        DefaultScope.overwrite_default_scope(scope),
        torch.device('meta'),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))  # MMPretrain reads its values
        return MODELS.build(model)


def small_outputs(widths, views=1, images=5, classes=3, progress=0.0, requires_grad=False):
    """A StepOutputs of random maps of 4 x 4 pixels, whose taps have these widths."""
    from mmcds.core.outputs import StepOutputs

    rows = views * images
    return StepOutputs(
        num_views=views,
        features={tap: torch.randn(rows, width, 4, 4, requires_grad=requires_grad) for tap, width in widths.items()},
        pooled=torch.randn(rows, 6),
        logits=torch.randn(rows, classes, requires_grad=requires_grad),
        labels=torch.arange(images) % classes,
        sample_idx=None,
        progress=progress,
    )
