"""A run says what it was: command, code, packages; and writes to the trackers that it is told."""

import copy
import json
import pickle
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from conftest import few_images
from mmengine.config import Config

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.record import RECORD, git_state
from mmcds.openmmlab.runner import FormattedOnce, Runner

CONFIG = 'mmcds::plain/resnet18w16_fashion.py'


def command(folder):
    quick = ['--seed', '3', '--cfg-options', *few_images(16, 8, 10), 'train_cfg.max_epochs=1']
    return [CONFIG, '--work-dir', str(folder / 'with space'), *quick]


def test_a_run_writes_down_what_it_was(tool, tmp_path):
    tool('train').main(command(tmp_path))
    (file,) = tmp_path.glob(f'with space/*/{RECORD}')
    record = json.loads(file.read_text())
    assert f"{CONFIG} --work-dir '{tmp_path}/with space' --seed 3 " in record['command']
    assert (record['seed'], record['processes'], record['threads']) == (3, 1, torch.get_num_threads())
    assert record['python'] == sys.version.split()[0]
    for package in ('torch', 'onedl-mmpretrain', 'numpy'):
        assert record['packages'][package] == version(package)


def test_the_config_of_a_run_is_formatted_once(tool, tmp_path, monkeypatch):
    texts = []

    def formatted(text, **_):
        texts.append(text)
        return f'# formatted\n{text}', True

    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', formatted)
    runner = tool('train').main(command(tmp_path))
    assert len(texts) == 1
    written = (tmp_path / 'with space/resnet18w16_fashion.py').read_text()
    saved = torch.load(tmp_path / 'with space/epoch_1.pth', weights_only=False)['meta']['cfg']
    assert written == saved == Config(runner.cfg.to_dict()).pretty_text


def test_a_config_that_changed_is_formatted_anew():
    config = FormattedOnce.of(Config(dict(model=dict(depth=18))))
    before, copied, sent = config.pretty_text, copy.deepcopy(config), pickle.loads(pickle.dumps(config))
    config.model.depth = 50
    assert config.pretty_text == Config(dict(model=dict(depth=50))).pretty_text != before
    assert copied.pretty_text == sent.pretty_text == before
    config.model.depth = 18
    assert config.pretty_text == before


def test_the_state_of_the_code_is_that_of_git(tmp_path):
    assert git_state(tmp_path) is None

    def git(*line):
        who = ['-c', 'user.name=a', '-c', 'user.email=a@b.c']
        return subprocess.run(
            ['git', '-C', tmp_path, *who, *line], check=True, capture_output=True, text=True
        ).stdout.strip()

    git('init')
    (tmp_path / 'file').write_text('one')
    git('add', 'file')
    git('commit', '-m', 'first')
    assert git_state(tmp_path) == dict(commit=git('rev-parse', 'HEAD'), changed=[])
    (tmp_path / 'file').write_text('two')
    assert git_state(tmp_path)['changed'] == [' M file']


def test_trackers_are_added_to_what_a_config_has(tool, monkeypatch):
    module = tool('train')
    config = Config(
        dict(work_dir='w', visualizer=dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]))
    )
    monkeypatch.setattr(module, 'find_spec', lambda name: object())
    module.track(config, ['tensorboard', 'mlflow'])
    kinds = [backend.type for backend in config.visualizer.vis_backends]
    assert kinds == ['LocalVisBackend', 'TensorboardVisBackend', 'MLflowVisBackend']
    assert config.visualizer.vis_backends[2].tracking_uri.endswith('/w/mlflow.db')
    with pytest.raises(ConfigError, match='has no visualizer'):
        module.track(Config(dict()), ['wandb'])
    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r'--track wandb needs its package: pip install wandb\.'):
        module.track(config, ['wandb'])


def test_a_test_leaves_the_config_of_a_training_alone(tmp_path):
    """A test knows no training data, so its config, in the folder of the training, would say less."""

    def run(loader, value):
        runner = object.__new__(Runner)
        runner._work_dir, runner._train_dataloader = str(tmp_path), loader
        runner.cfg = Config(dict(value=value), cfg_text='value', filename='run.py')
        runner.dump_config()
        return Config.fromfile(tmp_path / 'run.py').value

    assert run(None, 0) == 0, 'a test in a folder of its own'
    assert run(dict(batch_size=1), 1) == 1
    assert run(None, 2) == 1
    assert run(dict(batch_size=1), 3) == 3
