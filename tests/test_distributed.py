"""Two gloo processes through tools/dist_train.sh and dist_test.sh, against one process."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/cds/resnet18w16_fashion.py'

EXACT = """
_base_ = 'mmcds::cds/resnet18w16_fashion.py'
custom_imports = dict(imports=['mmcds', 'double_model'], allow_failed_imports=False)
groups = dict(type='GN', num_groups=4)  # BatchNorm would see other batches on two ranks
model = dict(
    type='DoubleCDSClassifier', channels_last=False, backbone=dict(norm_cfg=groups),
    supervisions=dict(cds=dict(gather=True, neck=dict(norm_cfg=groups), loss=dict(loss_weight=1.0))))
views = [[], [dict(type='RandomFlip', prob=1.0, direction='horizontal')]]  # nothing random
train_pipeline = [
    dict(type='LoadImage'), dict(type='MultiViewTransform', views=views), dict(type='PackInputs')]
train_dataloader = dict(
    num_workers=0, sampler=dict(shuffle=False), dataset=dict(indices=40, pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, dataset=dict(indices=20))
param_scheduler = []
train_cfg = dict(max_epochs=1)
"""
DOUBLE = """
from mmcds.openmmlab import CDSClassifier
from mmpretrain.registry import MODELS

@MODELS.register_module()
class DoubleCDSClassifier(CDSClassifier):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.double()
"""


def run(environment, *command):
    done = subprocess.run(
        [str(part) for part in command], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def exact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('exact')
    (folder / 'config.py').write_text(EXACT)
    (folder / 'double_model.py').write_text(DOUBLE)
    return folder


def parameters(folder):
    return torch.load(folder / 'epoch_1.pth', weights_only=False)['state_dict']


@pytest.fixture(scope='module')
def one_process(exact):
    from conftest import child_environment

    run(
        {**child_environment(), 'PYTHONPATH': str(exact)},
        'python',
        'tools/train.py',
        exact / 'config.py',
        '--work-dir',
        exact / 'one',
        '--cfg-options',
        'train_dataloader.batch_size=8',
    )
    return parameters(exact / 'one')


def test_two_ranks_with_gather_equal_one_process_after_five_steps(exact, one_process, environment):
    run(
        {**environment, 'PYTHONPATH': str(exact)},
        'tools/dist_train.sh',
        exact / 'config.py',
        2,
        '--static-graph',
        '--work-dir',
        exact / 'two',
        '--cfg-options',
        'train_dataloader.batch_size=4',
    )
    two = parameters(exact / 'two')
    assert two.keys() == one_process.keys()
    for key, value in two.items():
        assert value.dtype == torch.float64, key
        assert_close(value, one_process[key], rtol=0, atol=1e-10, msg=key)


@pytest.fixture(scope='module')
def apart(exact):
    """The parameters of two ranks that do not gather; rank r took images r, r + 2, ..."""
    from conftest import child_environment

    run(
        {**child_environment(), 'PYTHONPATH': str(exact)},
        'tools/dist_train.sh',
        exact / 'config.py',
        2,
        '--work-dir',
        exact / 'apart',
        '--cfg-options',
        'train_dataloader.batch_size=4',
        'model.supervisions.cds.gather=False',
    )
    return parameters(exact / 'apart')


def test_without_gather_two_ranks_train_another_objective(one_process, apart):
    assert max((apart[key] - one_process[key]).abs().max() for key in apart if key.endswith('weight')) > 1e-4


def test_accumulating_twice_is_two_ranks_that_do_not_gather(exact, apart, environment):
    order = [index for start in range(0, 40, 8) for rank in (0, 1) for index in range(start + rank, start + 8, 2)]
    run(
        {**environment, 'PYTHONPATH': str(exact)},
        'python',
        'tools/train.py',
        exact / 'config.py',
        '--work-dir',
        exact / 'accumulated',
        '--cfg-options',
        'train_dataloader.batch_size=4',
        'model.supervisions.cds.gather=False',
        'optim_wrapper.accumulative_counts=2',
        f'train_dataloader.dataset.indices={order}'.replace(' ', ''),
    )
    for key, value in parameters(exact / 'accumulated').items():
        assert_close(value, apart[key], rtol=0, atol=1e-10, msg=key)


def test_the_quickstart_trains_and_is_evaluated_on_two_processes(tmp_path, environment):
    small = [
        'train_dataloader.dataset.indices=128',
        'val_dataloader.dataset.indices=40',
        'train_cfg.max_epochs=2',
        'train_dataloader.num_workers=1',
        'val_dataloader.num_workers=0',
        'default_hooks.logger.interval=1',
    ]
    run(
        environment,
        'tools/dist_train.sh',
        CONFIG,
        2,
        '--work-dir',
        tmp_path,
        '--auto-scale-lr',
        '--cfg-options',
        *small,
    )
    scalars = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert sum('loss' in record for record in scalars) == 2, '128 images are one step of 2 x 64 per epoch'
    trained = [record['accuracy/top1'] for record in scalars if 'accuracy/top1' in record][-1]
    run(
        environment,
        'tools/dist_test.sh',
        CONFIG,
        tmp_path / 'epoch_2.pth',
        2,
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'two.json',
        '--cfg-options',
        *small,
        'test_dataloader.dataset.indices=40',
    )
    run(
        environment,
        'python',
        'tools/test.py',
        CONFIG,
        tmp_path / 'epoch_2.pth',
        '--work-dir',
        tmp_path / 'test',
        '--out',
        tmp_path / 'one.json',
        '--cfg-options',
        *small,
        'test_dataloader.dataset.indices=40',
    )
    two, one = (json.loads((tmp_path / name).read_text())['accuracy/top1'] for name in ('two.json', 'one.json'))
    assert two == one == pytest.approx(trained), 'the same statistics on every rank, in training and in testing'
