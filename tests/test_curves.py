"""Curves: every scalar of a run that was stopped and resumed appears once."""

import json

import pytest

from mmcds.curves import plot_curves, read_scalars
from mmcds.errors import ConfigError


def write(folder, records):
    file = folder / 'vis_data' / 'scalars.json'
    file.parent.mkdir(parents=True)
    file.write_text(''.join(json.dumps(record) + '\n' for record in records))


def step(n, loss):
    return dict(loss=loss, loss_ce=loss / 2, iter=n, epoch=1 + n // 10, step=n)


@pytest.fixture
def stopped_run(tmp_path):
    write(tmp_path / '20240101_1', [step(5, 3.0), step(10, 2.0), {'accuracy/top1': 50.0, 'step': 1}, step(15, 9.0)])
    write(tmp_path / '20240101_2', [step(15, 1.0), {'accuracy/top1': 60.0, 'step': 2}])
    return tmp_path


def test_a_repeated_step_counts_once_with_its_later_value(stopped_run):
    train, val = read_scalars(stopped_run)
    assert [(r['iter'], r['loss']) for r in train] == [(5, 3.0), (10, 2.0), (15, 1.0)]
    assert [(r['epoch'], r['accuracy/top1']) for r in val] == [(1, 50.0), (2, 60.0)]


def test_the_picture_is_written_and_not_blank(stopped_run, tmp_path):
    from matplotlib.image import imread

    picture = imread(plot_curves(stopped_run, tmp_path / 'curves.png'))
    assert picture.shape[0] > 300
    assert picture.std() > 0.05


def test_the_command_says_where_the_picture_is(stopped_run, tmp_path, tool, capsys):
    tool('plot_curves').main([str(stopped_run), '--out', str(tmp_path / 'c.png')])
    assert capsys.readouterr().out.strip() == str(tmp_path / 'c.png')


def test_rejects_a_folder_without_scalars(tmp_path):
    with pytest.raises(ConfigError, match='holds no'):
        read_scalars(tmp_path)
