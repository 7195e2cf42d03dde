"""tools/calibration.py: the numbers of the functions, on the right half of the images, over repetitions."""

import csv
from pathlib import Path

import pytest
import torch

from mmcds.core.errors import ConfigError
from mmcds.evaluation.calibration import calibration
from mmcds.evaluation.temperature import fit_temperature, scale

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/plain/resnet18w16_fashion.py')
KEYS = ('ece', 'adaptive_ece', 'classwise_ece', 'nll')


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Two networks with random weights."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    folder = tmp_path_factory.mktemp('weights')
    config = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for seed in range(2):
            torch.manual_seed(seed)
            model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor})
            torch.save(dict(state_dict=model.state_dict(), meta={}), folder / f'{seed}.pth')
    return [str(folder / f'{seed}.pth') for seed in range(2)]


def test_numbers_are_those_of_the_metric_in_a_run(tool, checkpoints, tmp_path, capsys):
    few = ['--cfg-options', 'test_dataloader.dataset.indices=30', 'test_dataloader.num_workers=0']
    pairs = [part for checkpoint in checkpoints for part in (CONFIG, checkpoint)]
    records = tool('calibration').main([*pairs, '--names', 'a', 'b', '--bins', '5', '--out', str(tmp_path), *few])
    own = tmp_path / 'own.py'
    own.write_text(
        "_base_ = 'mmcds::plain/resnet18w16_fashion.py'\n"
        "test_evaluator = [dict(type='Accuracy'), dict(type='CalibrationError', bins=5)]\n"
    )
    expected = tool('test').main([str(own), checkpoints[1], '--work-dir', str(tmp_path / 'w'), *few])
    assert [record['model'] for record in records] == ['a', 'b']
    assert {key: records[1][key] for key in KEYS} == {key: expected[f'calibration/{key}'] for key in KEYS}
    assert 100 * records[1]['accuracy'] == pytest.approx(expected['accuracy/top1'])
    assert records[0]['nll'] != records[1]['nll']


def fake(scores, labels):
    """In the place of running a network: seed 1 of a model predicts every class with the scores of the next one."""
    return lambda model, args: (scores.roll(int(model.checkpoint), 1), labels)


def test_temperature_is_fitted_on_one_half_and_all_numbers_are_of_the_other(tool, tmp_path, monkeypatch, capsys):
    logits = 3 * torch.randn(400, 5, dtype=torch.float64)
    scores, labels = (2 * logits).softmax(1), torch.multinomial(logits.softmax(1), 1)[:, 0]
    module = tool('calibration')
    monkeypatch.setattr(module, 'predict', fake(scores, labels))
    plain, scaled = module.main(['c.py', '0', '--names', 'm', '--temperature-scaling', '--out', str(tmp_path)])
    temperature = fit_temperature(scores[::2], labels[::2])
    assert (plain['temperature'], scaled['temperature']) == (None, pytest.approx(temperature))
    assert {key: plain[key] for key in KEYS} == pytest.approx(calibration(scores[1::2], labels[1::2]))
    expected = calibration(scale(scores[1::2], temperature), labels[1::2])
    assert {key: scaled[key] for key in KEYS} == pytest.approx(expected)
    assert plain['images'] == scaled['images'] == 200
    assert plain['accuracy'] == scaled['accuracy']
    assert scaled['nll'] < plain['nll']
    said = 'Images 1, 3, 5, ... of the test set gave the temperature'
    assert said in capsys.readouterr().out.replace('\n', ' ')
    assert said in (tmp_path / 'calibration.md').read_text()
    assert {path.name for path in tmp_path.glob('*.png')} == {'m.png', 'm-scaled.png'}


def test_runs_of_one_name_are_averaged(tool, tmp_path, monkeypatch):
    labels = torch.arange(100) % 4
    scores = torch.full((100, 4), 0.1).scatter_(1, labels[:, None], 0.7)  # always right, 30 % too modest
    module = tool('calibration')
    monkeypatch.setattr(module, 'predict', fake(scores, labels))
    module.main(['c.py', '0', 'c.py', '1', 'd.py', '0', '--names', 'm', 'm', 'n', '--out', str(tmp_path)])
    first, second = [line.split(' | ') for line in (tmp_path / 'calibration.md').read_text().splitlines()[2:4]]
    assert first[1:6] == ['2', '100', '-', '50.00 ± 70.71', '50.00 ± 28.28']  # ECE 30 % of one, 70 % of the other
    assert second[1:6] == ['1', '100', '-', '100.00', '30.00']
    assert [row['accuracy'] for row in csv.DictReader((tmp_path / 'calibration.csv').open())] == ['1.0', '0.0', '1.0']
    assert {path.name for path in tmp_path.glob('*.png')} == {'m_0.png', 'm_1.png', 'n.png'}


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['c.py'], r'c\.py is without a checkpoint'),
        (['c.py', '0', '--names', 'a', 'b'], '--names has 2 names for 1 models'),
        (['c.py', '0', 'd.py', '0', '--names', 'a', 'a'], '0 was named twice for a'),
        (['c', '0', 'd', '0', 'c', '1', '--names', 'a', 'a_1', 'a'], 'two models would be called a_1'),
        (['c', '0', 'd', '0', '--names', 'a', 'a-scaled'], 'two models would be called a-scaled'),
        (['c.py', '0', '--names', 'a/b'], "'a/b' cannot be the name of a file"),
        (['c.py', '0', '--bins', '0'], 'bins is 0, but calibration needs at least 1 bin'),
        ([CONFIG, 'nowhere.pth'], r'checkpoint nowhere\.pth does not exist'),
    ],
)
def test_mistakes_are_named(tool, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        tool('calibration').main([*arguments, '--out', str(tmp_path)])
