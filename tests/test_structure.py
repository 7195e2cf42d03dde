"""Rules of the code base, read from the syntax tree: who imports whom, and what every file says of itself."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmcds

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'mmcds').rglob('*.py'))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: imports are absolute'
            found |= {node.module or ''} | {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def folder(path: Path) -> str:
    return path.relative_to(ROOT / 'mmcds').parts[0]


#: Folders of plain PyTorch, from the inside out, and what they may import beyond the standard library.
INNER = ('core', 'losses', 'heads', 'methods', 'baselines')
PLAIN = {'torch', 'numpy', 'triton', 'mmcds', *sys.stdlib_module_names}


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_folder_of_detection_needs_mmdetection_and_nobody_the_baselines(path):
    for name in imports(path):
        if folder(path) != 'detection':
            assert not re.match(r'(mmdet|mmcv\.ops|mmcds\.detection)\b', name), name
        if folder(path) != 'baselines':
            assert not re.match(r'mmcds\.baselines\b', name), name


@pytest.mark.parametrize(
    'path',
    [path for path in FILES if folder(path) in INNER or path.name == 'color.py'],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_inner_folders_import_torch_and_those_further_in(path):
    for name in imports(path):
        top, *rest = name.split('.')
        assert top in PLAIN, name
        if top == 'mmcds' and rest and folder(path) in INNER:
            assert rest[0] in INNER[: INNER.index(folder(path)) + 1], name


def test_no_two_modules_import_each_other():
    """Follow the imports at the top of every file; a circle would let the order of imports decide what works."""

    def name_of(path):
        return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')

    modules = {name_of(path): path for path in FILES if path.name != '__init__.py'}
    edges = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text())
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        found = set()
        for node in ast.walk(top):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {node.module or ''} | {f'{node.module}.{alias.name}' for alias in node.names}
        edges[module] = found & modules.keys()
    done, path = set(), []

    def visit(module):
        assert module not in path, ' -> '.join([*path[path.index(module) :], module])
        if module not in done:
            path.append(module)
            for other in sorted(edges[module]):
                visit(other)
            done.add(path.pop())

    for module in edges:
        visit(module)


@pytest.mark.slow
def test_without_the_baselines_the_package_works(tmp_path):
    shutil.copytree(ROOT / 'mmcds', tmp_path / 'mmcds', ignore=shutil.ignore_patterns('.mim', '__pycache__'))
    for name in ('configs', 'model-index.yml'):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.rmtree(tmp_path / 'mmcds' / 'baselines')
    script = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]  # this copy alone
import torch
from torch import nn
import mmcds
from mmcds import ContrastiveDeepSupervision
net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
cds = ContrastiveDeepSupervision(net, ('0', '2'), image_size=32)
cds(torch.randn(2, 4, 3, 32, 32), torch.arange(4) % 2).total.backward()
from mmengine.registry import DefaultScope
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
model = get_model('cds_resnet18w16_fashion', pretrained=False)
losses = model.loss(torch.randn(2, 4, 3, 28, 28), [DataSample().set_gt_label(i) for i in range(4)])
assert 'cds.stage3.loss_contrast' in losses
assert 'KDSupervision' not in MODELS.module_dict
print(mmcds.__file__)
"""
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(
        [sys.executable, '-c', script], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1].startswith(str(tmp_path))


def test_the_first_reading_that_readme_names_is_short():
    readme = (ROOT / 'README.md').read_text()
    files = re.findall(r'`(mmcds/[a-z_/]+\.py)`', readme[readme.index('First reading') :].split('\n\n')[0])
    assert len(files) >= 3
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= 400


@pytest.mark.parametrize(
    'path',
    sorted([*FILES, *(ROOT / 'tools').glob('*.py'), *(ROOT / 'tests').rglob('*.py')]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_file_says_in_one_line_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f'{path} has no docstring'
    assert docstring.splitlines()[0].endswith(('.', ':'))


def test_readme_and_package_list_every_folder_in_the_same_order():
    first, second = (
        re.findall(r'^ +([a-z_]+)/ {2,}', text, re.M) for text in (mmcds.__doc__, (ROOT / 'README.md').read_text())
    )
    assert first == second
    assert set(first) == {path.parent.name for path in (ROOT / 'mmcds').glob('*/__init__.py')}


def test_nothing_names_a_machine_or_is_left_unfinished():
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip('this copy of the project is no git checkout')
    marks = '|'.join(
        ['TO' + 'DO', 'FIX' + 'ME', r'NotImplemented' + r'Error\(\)', '/ro' + 'ot/', '/wo' + 'rk/', '/tm' + 'p/']
    )
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if (
            path.suffix in ('.py', '.md', '.sh', '.yml', '.toml', '.txt', '.json', '')
            and path.is_file()
            and ('ubyte' not in name)
        ):
            found = re.findall(rf'(?:{marks})', path.read_text())
            assert not found, f'{name}: {found}'
