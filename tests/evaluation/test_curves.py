"""Curves: every scalar of a run that was stopped and resumed appears once; several runs share one picture."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import (
    align,
    compare_curves,
    draw_line,
    legend_below,
    moving_average,
    places_of,
    plot_curves,
    read_scalars,
)


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


@pytest.fixture
def figures(monkeypatch):
    """What is saved, in turn."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **more: (saved.append(self), save(self, *args, **more)))
    return saved


def drawn_markers(line):
    """Places of the points of a line whose marker is seen."""
    start, every = line.get_markevery()
    return line.get_xdata()[start::every] if line.get_marker() not in ('', ' ', 'None', None) else []


@pytest.mark.parametrize('several', [False, True])
def test_a_run_of_one_epoch_is_seen(several, tmp_path, figures):
    write(tmp_path / '1', [step(10, 3.0) | {'epoch': 1}, {'accuracy/top1': 50.0, 'step': 1}])
    if several:
        compare_curves([('a', tmp_path), ('b', tmp_path)], tmp_path / 'c.png')
    else:
        plot_curves(tmp_path, tmp_path / 'c.png')
    losses, scores = figures[0].axes
    assert [len(axes.lines) for axes in (losses, scores)] == [2, 2 if several else 1]
    for line in (*losses.lines, *scores.lines):
        assert list(drawn_markers(line)) == [1]
        (x,), (y,) = line.get_data()
        assert line.axes.viewLim.contains(x, y)
    assert not losses.child_axes, 'nothing to enlarge'
    assert [tick for tick in scores.get_xticks() if tick < scores.get_xlim()[1]] == [0, 1]


def test_every_series_has_a_marker_of_its_own_at_about_ten_points_and_the_legend_covers_none(tmp_path, figures):
    terms = {f'loss_{k}': 1.0 + k for k in range(9)}
    write(tmp_path / '1', [step(n, 30.0 / n) | terms for n in range(1, 61)])
    plot_curves(tmp_path, tmp_path / 'c.png')
    losses = figures[0].axes[0]
    assert len({line.get_marker() for line in losses.lines}) == len(losses.lines) == 11
    assert {line.get_label() for line in losses.lines} == {'loss', 'loss_ce', *terms}
    assert all(8 <= len(drawn_markers(line)) <= 20 for line in losses.lines)
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [line.get_label() for line in losses.lines]
    figures[0].draw_without_rendering()  # at its own resolution, not that of the file
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figures[0].axes)


@pytest.mark.parametrize('longest, columns', [(4, 9), (33, 3), (100, 1)])
def test_a_legend_of_long_names_has_fewer_columns_and_stays_in_the_picture(longest, columns):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout='constrained')
    axes = figure.subplots()
    for number in range(9):
        name = (f'{number}.supervisions.cds.stage0.loss_con' * 3)[:longest]
        draw_line(axes, np.arange(3), np.arange(3), name if number else 'cds')
    legend_below(figure, axes.lines)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert legend._ncols == columns
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


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


def test_several_runs_are_drawn_by_name_with_a_zoomed_tail(runs, figures):
    named = [('plain', runs / 'plain_0'), ('plain', runs / 'plain_1'), ('CDS', runs / 'cds')]
    compare_curves(named, runs / 'c.png', smooth=0, tail=0.25)
    losses, scores = figures[0].axes
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
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ['plain: 78.0 %', 'CDS: 84.0 %']
    assert len({line.get_marker() for line in scores.lines}) == 2
    assert [line.get_marker() for line in losses.lines] == [line.get_marker() for line in scores.lines]
    figures[0].draw_without_rendering()
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in (losses, scores))


def test_the_average_is_as_wide_as_the_picture_says(runs, figures):
    compare_curves([('CDS', runs / 'cds')], runs / 'c.png', smooth=3)  # one record per epoch
    (line,) = figures[0].axes[0].lines
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


def test_records_stand_at_their_epoch_also_where_epochs_had_another_length_after_a_resume():
    """Ten epochs of 100 steps, then ten of 50, a record every 25."""
    equal = [dict(iter=25 * n, epoch=-(-25 * n // 100)) for n in range(1, 41)]
    assert_allclose(places_of(equal), [record['iter'] / 100 for record in equal])
    later = [dict(iter=1000 + 25 * n, epoch=10 - (-25 * n // 50)) for n in range(1, 21)]
    assert_allclose(places_of([*equal, *later])[40:], [10 + 0.5 * n for n in range(1, 21)])
    assert_allclose(places_of([*equal, *later])[:40], places_of(equal))
