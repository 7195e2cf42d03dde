"""benchmarks/journeys.py: what ends as it should counts as right, and nothing else does."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmcds.detection  # noqa: F401  (operators, before MMDetection is imported)
from mmcds.cli.check_config import check_config
from mmcds.openmmlab.runner import Runner

SCRIPT = Path(__file__).resolve().parents[1] / 'benchmarks/journeys.py'


@pytest.fixture(scope='module')
def journeys():
    spec = importlib.util.spec_from_file_location('journeys', SCRIPT)
    module = sys.modules['journeys'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules['journeys']


def test_two_journeys_end_as_they_should(journeys, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'journeys.json'
    monkeypatch.setattr(sys, 'argv', ['journeys.py', 'help', 'predict', '--out', str(out)])
    assert journeys.main() == 0
    rows = json.loads(out.read_text())['commands']
    assert [row['journey'] for row in rows] == ['help', 'help', 'predict']
    assert [row['status'] for row in rows] == [0, 2, 0]
    assert rows[2]['end'][-1].startswith('photos/Bag/00.png  Bag')
    said = capsys.readouterr().out
    assert re.search(r'^predict +[\d.]+ +0  mmcds predict cds_resnet18w16_fashion', said, re.M)
    assert '3 commands' in said
    assert '0 not as they should be' in said


@pytest.mark.parametrize(
    'status, says, right', [(2, 'Did you mean train', True), (0, '', False), (2, 'Did you mean test', False)]
)
def test_another_status_or_another_answer_is_wrong(journeys, tmp_path, status, says, right):
    row = journeys.take(journeys.Step('mmcds trian', says, status), tmp_path)
    assert (row['status'], row['right']) == (2, right)


def test_a_command_that_hangs_is_wrong(journeys, tmp_path, monkeypatch):
    monkeypatch.setattr(journeys, 'PATIENCE', 0.1)
    row = journeys.take(journeys.Step('mmcds doctor'), tmp_path)
    assert (row['status'], row['right']) == (None, False)


def test_a_wrong_command_is_shown_and_is_the_status_of_the_script(journeys, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(journeys, 'JOURNEYS', {'lost': (None, [journeys.Step('mmcds trian')])})
    monkeypatch.setattr(sys, 'argv', ['journeys.py', '--out', str(tmp_path / 'out.json')])
    assert journeys.main() == 1
    assert 'NOT AS IT SHOULD BE:\n    mmcds: error: there is no command trian' in capsys.readouterr().out


def test_what_a_user_inherits_finds_its_classes_and_starts_loading_processes(journeys, tmp_path, monkeypatch):
    """MMEngine writes ``_scope_`` into settings that come from another package, functions' too."""
    monkeypatch.chdir(tmp_path)
    journeys.write_listed(tmp_path)
    journeys.write_boxes(tmp_path)
    for name in ('listed.py', 'boxes.py'):
        config = Config.fromfile(name)
        check_config(config)
        assert config.train_dataloader.worker_init_fn['_scope_'] == 'mmcds'
    loader = {**Config.fromfile('listed.py').train_dataloader, 'num_workers': 1, 'persistent_workers': False}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        batches = list(Runner.build_dataloader(loader, seed=0))
    assert [len(batch['data_samples']) for batch in batches] == [4, 4]
