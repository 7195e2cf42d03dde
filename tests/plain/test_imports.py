"""What an import loads and costs: the inner folders need torch and numpy alone, the package itself nothing."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INNER = ('core', 'losses', 'heads', 'methods', 'baselines', 'views')
OTHERS = ('mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'cv2', 'matplotlib', 'rich', 'torchvision', 'timm')
BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {OTHERS}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Block())
"""


def run(script, blocked=True):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-c', BLOCK * blocked + script], env=environment, capture_output=True, text=True, cwd='/'
    )


def test_the_package_itself_costs_nothing():
    done = run('import mmcds\nprint(sorted(sys.modules.keys() & {"torch", "numpy"}))')
    assert done.stdout.strip() == '[]', done.stderr


@pytest.mark.slow
def test_the_inner_folders_need_torch_alone_and_cost_little_beyond_it():
    script = f"""
import time
begin = time.perf_counter()
import torch, torch.nn.functional, torch.distributed, torch.utils.checkpoint, numpy
between = time.perf_counter()
import {', '.join(f'mmcds.{name}' for name in INNER)}
share = (time.perf_counter() - between) / (between - begin)
from mmcds import ContrastiveDeepSupervision
assert not sys.modules.keys() & set({OTHERS}), sys.modules.keys() & set({OTHERS})
print(share)
"""
    shares = []
    for _ in range(3):
        done = run(script)
        assert done.returncode == 0, done.stderr[-2000:]
        shares.append(float(done.stdout))
    assert min(shares) <= 0.2, shares  # of what torch and numpy take


@pytest.mark.parametrize(
    'name', ['openmmlab', 'data', 'networks', 'detection', 'evaluation', 'paper', 'views.multi_view', 'views.loading']
)
def test_what_needs_a_missing_library_says_so_in_one_line(name):
    done = run(f'import mmcds.{name}')
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode
    assert last.startswith(f'ModuleNotFoundError: mmcds.{name.split(".")[0]}'), last
    assert "pip install '.[openmmlab]' in the folder" in last or "pip install '.[det]' in the folder" in last


@pytest.mark.parametrize('tool', ['train', 'test', 'paper', 'export_backbone'])
def test_tools_say_so_without_a_traceback(tool):
    script = f"""
import runpy
sys.argv = ['{tool}.py', 'x']
runpy.run_path({str(ROOT / 'tools' / f'{tool}.py')!r}, run_name='__main__')
"""
    done = run(script)
    assert done.returncode == 1
    assert done.stderr.strip().startswith(
        'mmcds: error: mmcds.cli needs mmengine, which is not installed: pip install'
    )
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec('mmpretrain') is None, reason='MMPretrain is not installed')
@pytest.mark.parametrize(
    'order',
    [
        'import mmcds; import mmpretrain',
        'import mmpretrain; import mmcds',
        'import mmengine; import mmcds; from mmpretrain.registry import MODELS',
    ],
)
def test_classes_are_registered_in_any_order_of_imports(order):
    script = f"""
{order}
import mmengine.hub
from mmpretrain.registry import HOOKS, MODELS, TRANSFORMS
names = ['CDSClassifier', 'CDSNeck', 'SupConLoss', 'NTXentLoss', 'KDSupervision', 'CDSDataPreprocessor']
assert all(MODELS.get(name) is not None for name in names)
assert TRANSFORMS.get('MultiViewTransform') is not None and HOOKS.get('EpochSeedHook') is not None
print(mmengine.hub.get_config('mmcds::cds/resnet50_in1k.py').model.supervisions.cds.type)
"""
    done = run(script, blocked=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == 'ContrastiveSupervision'
