"""Our configs in the hosts' own tools, the commands at the end of a run, and what pip is told to install."""

import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path

import cv2
import mmpretrain
import numpy as np
import pytest
from packaging.requirements import Requirement

from mmcds.after_import import after_import, require
from mmcds.command import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / 'docs/migration.md').read_text().split("### With the hosts' own tools")[1]
#: The first lines that docs/migration.md gives for a config that inherits from ours.
PLAIN, CLASSIFIER, DETECTOR = re.findall(r"`(_base_ = (?:__import__\('mmcds'\) and )?'mmcds::[^`]+)`", SECTION)


def test_mmpretrain_trains_a_config_that_inherits_from_ours(tmp_path, environment):
    (tmp_path / 'mine.py').write_text(
        CLASSIFIER.replace('cds/resnet18_cifar10.py', 'cds/resnet18w16_fashion.py') + '\n'
        'loader = dict(num_workers=0, persistent_workers=False)\n'
        'train_dataloader = dict(batch_size=32, dataset=dict(indices=64), **loader)\n'
        'val_dataloader = dict(dataset=dict(indices=32), **loader)\n'
        'train_cfg = dict(max_epochs=1)\n'
        'param_scheduler = None\n'
    )
    command = [sys.executable, str(Path(mmpretrain.__file__).parent / '.mim/tools/train.py'), 'mine.py']
    done = subprocess.run(
        [*command, '--work-dir', 'run'], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert 'cds.stage3.loss_contrast' in said
    assert (tmp_path / 'run/backbone_epoch_1.pth').is_file()
    run = tmp_path / 'run'
    ending = f'\n  mmcds test {run}/mine.py {run}/epoch_1.pth --work-dir {run}/test\n'
    assert ending in said, 'what lies beside the train.py of a host is no tool of ours'


def test_without_an_import_mmengine_knows_our_configs_only_by_the_first_lines_of_the_page(tmp_path, environment):
    """The plain line is not enough there; should MMEngine learn it one day, the page can be shorter."""
    lines = dict(plain=PLAIN, classifier=CLASSIFIER, detector=DETECTOR)
    for name, line in lines.items():
        (tmp_path / f'{name}.py').write_text(f'{line}\n')
    script = """
from mmengine.config import Config
try:
    Config.fromfile('plain.py')
except AssertionError as error:
    print(error)
for name in ('classifier.py', 'detector.py'):
    print(Config.fromfile(name, import_custom_modules=False).model.type)
"""
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        'mmengine does not support to load mmcds config.',
        'CDSClassifier',
        'RetinaNet',
    ], done.stderr[-3000:]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package that nobody has imported yet."""
    (tmp_path / 'fresh_package').mkdir()
    (tmp_path / 'fresh_package/__init__.py').write_text('import fresh_switch\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path])
    yield 'fresh_package', tmp_path / 'fresh_switch.py'
    for name in ('fresh_package', 'fresh_switch'):
        sys.modules.pop(name, None)


def test_what_waits_for_a_package_outlives_searches_and_failed_imports(package):
    name, switch = package
    called, finders = [], len(sys.meta_path)
    for word in ('first', 'second'):
        after_import(name, lambda word=word: called.append(word))
    for _ in range(2):
        assert importlib.util.find_spec(name).origin.endswith('fresh_package/__init__.py')
    with pytest.raises(ModuleNotFoundError, match='fresh_switch'):
        importlib.import_module(name)
    assert not called
    switch.touch()
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    importlib.reload(module)
    assert sorted(called) == ['first', 'second']
    assert len(sys.meta_path) == finders
    assert type(module.__loader__).__name__ == 'SourceFileLoader'
    after_import(name, lambda: called.append('third'))
    assert called[-1] == 'third'


def test_the_commands_at_the_end_run_where_the_user_stands(tool, tmp_path, data_root, any_checksum, monkeypatch):
    """They need the data root and the smaller network of the training, which only its command line had."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['mmcds train'])
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'train_dataloader.batch_size=10']
    options += ['test_dataloader.num_workers=0', 'train_cfg.max_epochs=1', 'param_scheduler=None']
    options += ['model.backbone.base_channels=8', 'model.backbone.stem_channels=8', 'model.head.in_channels=64']
    where = ['--work-dir', 'a run', '--data-root', str(data_root)]
    tool('train').main(['mmcds::plain/resnet18_cifar10.py', *where, '--cfg-options', *options])
    monkeypatch.delenv('MMCDS_DATA_ROOT')
    cv2.imwrite('image.png', np.zeros((32, 32, 3), np.uint8))
    block = next(Path('a run').glob('*/*.log')).read_text().split('What to run next:\n')[1].split('\n--')[0]
    ran = []
    for line in block.replace('IMAGE_OR_FOLDER', 'image.png').splitlines():
        program, name, *arguments = shlex.split(line.partition('   (')[0])
        assert program == 'mmcds'
        tool(COMMANDS[name][0]).main(arguments)
        ran.append(name)
    assert ran == ['test', 'predict', 'views', 'export-backbone', 'export']
    assert {'OUT.pth', 'OUT.onnx', 'views.png'} <= {path.name for path in tmp_path.iterdir()}


#: What is named for a purpose of the user's, and is no requirement of ours.
OF_THE_USER = {'wandb', 'mlflow', 'ninja', 'packaging', 'setuptools'}
TEXTS = [
    path
    for pattern in (
        '*.md',
        'docs/**/*.md',
        'docs/**/*.ipynb',
        'examples/*',
        'benchmarks/*.md',
        'mmcds/**/*.py',
        'tools/*',
    )
    for path in ROOT.glob(pattern)
    if path.is_file() and '.mim' not in path.parts
]


def test_whatever_a_text_tells_to_install_can_be_installed():
    """From this folder or from an index, where there is no mmcds."""
    extras = set(metadata('mmcds').get_all('Provides-Extra'))
    known = {Requirement(line).name for line in requires('mmcds')} | OF_THE_USER
    seen = 0
    for path in TEXTS:
        text = path.read_text()
        for options, first in re.findall(r"""pip install((?: -c \S+| -\S+)*) ["']?([^\s"'`]+)""", text):
            seen += 1
            place, _, named = first.partition('[')
            if place == '.':
                assert '{' in named or set(named.rstrip('],').split(',')) - {''} <= extras, f'{path}: {first}'
            elif not first.startswith('{') and '--no-deps' not in options:
                assert re.split(r'[\[<>=!,.;:)]', first)[0] in known, f'{path}: pip install {first}'
        assert {*re.findall(r"\brequire\([^)]*?, '(\w+)', ", text)} <= extras, path
    assert seen > 15
    with pytest.raises(
        ModuleNotFoundError, match=r"pip install '\.\[det\]' in the folder of mmcds, or 'FILE\.whl\[det\]'"
    ):
        require('no_such_package', 'det', 'this')
