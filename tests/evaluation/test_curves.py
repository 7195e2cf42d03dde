"""Curves: every scalar of a run that was stopped and resumed appears once; several runs share one picture."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import align, compare_curves, moving_average, plot_curves, read_scalars


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


def test_a_moving_average_leaves_straight_lines_as_they_are_and_averages_in_the_middle():
    line = np.stack([np.arange(9.0), np.full(9, 7.0)])
    for half in (0, 2, 50):
        assert_allclose(moving_average(line, half), line, atol=1e-12)
    spike = np.eye(1, 9, 4)[0]
    assert_allclose(moving_average(spike, 1), [0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0, 0], atol=1e-12)


def test_repetitions_are_compared_where_both_were_logged():
    first, second = [step(5, 3.0), step(10, 2.0)], [step(10, 4.0), step(15, 1.0)]
    places, values = align([first, second], 'iter', 'loss_ce', 'plain')
    assert (places.tolist(), values.tolist()) == ([10], [[1.0], [2.0]])


@pytest.fixture
def runs(tmp_path):
    """Two runs of plain, one of CDS: 20 epochs of 10 iterations; CDS ends lower."""
    for name, scale in (('plain_0', 1.0), ('plain_1', 1.2), ('cds', 0.5)):
        records = []
        for epoch in range(1, 21):
            records.append(dict(loss=9.0, loss_ce=scale / epoch, epoch=epoch, step=10 * epoch))
            records.append({'accuracy/top1': 90 - 10 * scale - 20 / epoch, 'step': epoch})
        write(tmp_path / name / '20240101', records)
    return tmp_path


def test_several_runs_are_drawn_by_name_with_a_zoomed_tail(runs, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **other: drawn.append(self))
    named = [('plain', runs / 'plain_0'), ('plain', runs / 'plain_1'), ('CDS', runs / 'cds')]
    compare_curves(named, runs / 'c.png', smooth=0, tail=0.25)
    losses, scores = drawn[0].axes
    plain, cds = losses.lines
    assert (plain.get_label(), cds.get_label()) == ('plain', 'CDS')
    epochs = np.arange(1, 21)
    assert_allclose(plain.get_xdata(), epochs)
    assert_allclose(plain.get_ydata(), 1.1 / epochs)
    assert_allclose(cds.get_ydata(), 0.5 / epochs)
    (inset,) = losses.child_axes
    assert_allclose(inset.lines[0].get_xdata(), epochs[14:])
    assert inset.get_ylim()[1] < 0.1, 'enlarged'
    assert [len(axes.collections) for axes in (losses, inset, scores)] == [1, 1, 1], 'a band of the repetitions alone'
    assert [text.get_text() for text in scores.get_legend().get_texts()] == ['plain: 78.0 %', 'CDS: 84.0 %']


def test_the_average_is_as_wide_as_the_picture_says(runs, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **other: drawn.append(self))
    compare_curves([('CDS', runs / 'cds')], runs / 'c.png', smooth=3)  # one record per epoch
    (line,) = drawn[0].axes[0].lines
    assert line.get_ydata()[9] == pytest.approx(0.5 * (1 / 9 + 1 / 10 + 1 / 11) / 3)


def test_the_command_draws_several_runs_and_names_what_is_wrong(runs, tool, capsys):
    main, folders = tool('plot_curves').main, [str(runs / 'plain_0'), str(runs / 'cds')]
    main([*folders, '--names', 'plain', 'CDS', '--out', str(runs / 'f4.svg')])
    assert capsys.readouterr().out.strip() == str(runs / 'f4.svg')
    text = (runs / 'f4.svg').read_text()
    for wanted in ('training loss_ce, mean over 3 epochs', 'CDS: 84.0 %'):
        assert f'<!-- {wanted} -->' in text
    for more, message in (
        (['--names', 'plain'], '--names has 1 names for 2 runs'),
        (['--loss', 'loss_kd'], 'plain_0: a run logged no loss_kd, only loss, loss_ce'),
        (['--metric', 'coco/bbox_mAP'], 'plain_0: a run logged no coco/bbox_mAP, only accuracy/top1'),
        (['--tail', '1'], r'tail in \[0, 1\), got 3.0 and 1.0'),
        (['--smooth', '-1'], 'smooth must be >= 0'),
    ):
        with pytest.raises(ConfigError, match=message):
            main([*folders, *more])


def test_repetitions_without_a_common_step_are_refused():
    with pytest.raises(ConfigError, match='plain: its runs have no iter of loss in common'):
        align([[step(5, 1.0)], [step(6, 1.0)]], 'iter', 'loss', 'plain')
