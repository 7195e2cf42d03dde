"""The study as a command: runs what is missing, chooses, compares, and says what it found."""

import csv

import pytest

from mmcds.core.errors import ConfigError
from mmcds.study import plan

ARGS = ['grey-300', '--arms', 'one,both']


@pytest.fixture
def study(tool, monkeypatch):
    """The tool, with a plan of two steps and one trial seed."""
    module = tool('study')
    monkeypatch.setattr(plan, 'STEPS', 8)
    monkeypatch.setattr(module, 'TRIAL_SEEDS', (0,))
    monkeypatch.setattr(module, 'FINAL_SEEDS', (10, 11))
    for name in ('one', 'both'):
        arm = plan.ARMS[name]
        monkeypatch.setitem(plan.ARMS, name, plan.Arm(**{**vars(arm), 'values': (0.05, 0.1)}))
    module.mark_of.cache_clear()
    yield module
    module.mark_of.cache_clear()


@pytest.fixture
def made_up(study, tmp_path):
    """A table in which the trials prefer 0.1, and the second view gives one or two points more."""

    def write(extra=0.0, arms=('one', 'both')):
        results = study.Results(tmp_path / 'study.csv')
        point = plan.POINTS['grey-300']
        for name in arms:
            arm = plan.ARMS[name]
            for job in [job for jobs in results.trials(point, arm).values() for job in jobs]:
                results.add(job, dict(accuracy=str(70 + 10 * job.value), ece='0.1', nll='1', **WHERE))
            for job in results.finals(point, arm):
                accuracy = 80 + (name == 'both') * (1.5 + extra * (job.seed - 10.5))
                results.add(job, dict(accuracy=str(accuracy), ece='0.05', nll='0.5', **WHERE))
        return results.file

    return write


WHERE = dict(versions='Python 3, mmcds 0', device='CPU, 2 cores', ended='2026-01-01')


def test_runs_what_is_missing_and_no_more(study, tmp_path, capsys, monkeypatch):
    for name in ('one', 'both'):
        monkeypatch.setitem(plan.ARMS, name, plan.Arm(**{**vars(plan.ARMS[name]), 'values': (0.1,)}))
    places = ['--table', str(tmp_path / 'study.csv'), '--work-dir', str(tmp_path / 'work')]
    study.main(['run', *ARGS, *places])
    said = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / 'study.csv').open()))
    assert len(rows) == 2 * 1 + 2 * 2
    assert {row['stage'] for row in rows} == {'trial', 'final'}
    assert all(0 <= float(row['accuracy']) <= 100 and float(row['nll']) > 0 for row in rows)
    assert not list(tmp_path.glob('work/*/*/*')), 'what has ended is a line of the table and no more'
    assert 'grey, 10 classes, 300 images' in said
    monkeypatch.setattr(study, 'execute', lambda runs, *_, **__: pytest.fail(f'trained again: {runs}') if runs else [])
    study.main(['run', *ARGS, *places])
    study.main(['list', *ARGS, '--table', places[1]])
    assert '2 of 2' in capsys.readouterr().out


def test_says_what_differs_and_writes_it(study, made_up, tmp_path, capsys):
    file = made_up(extra=0.001)
    study.main(['show', 'grey-300', '--table', str(file), '--write', str(tmp_path / 'docs')])
    page = (tmp_path / 'docs/study_results.md').read_text()
    (one,) = [line for line in page.splitlines() if line.startswith('| cross-entropy, one view')]
    cells = [cell.strip() for cell in one.strip('|').split('|')]
    assert cells[1] == 'lr 0.1', 'the value with the better trials'
    assert cells[3:5] == ['80.00 ± 0.00', '-1.50']
    assert cells[7] == 'worse'
    assert 'seeds to be found in four of five studies' in page
    assert 'Run with Python 3, mmcds 0 on CPU, 2 cores.' in page
    assert (tmp_path / 'docs/study.png').stat().st_size > 1000


def test_a_difference_within_the_spread_is_none_found(study, made_up, capsys):
    study.main(['show', 'grey-300', '--table', str(made_up(extra=4.0))])
    assert 'no difference found' in capsys.readouterr().out.replace('\n', ' ')


def test_arms_whose_runs_are_not_all_there_are_left_out(study, made_up, capsys):
    file = made_up(arms=('both',))
    study.main(['show', 'grey-300', '--table', str(file)])
    said = capsys.readouterr().out
    assert 'cross-entropy, both views' in said
    assert 'one view' not in said
    rows = file.read_text().splitlines()
    file.write_text('\n'.join(row for row in rows if ',final,' not in row) + '\n')
    study.main(['show', 'grey-300', '--table', str(file)])
    assert 'No arm has all its runs' in capsys.readouterr().out


def test_an_arm_without_its_reference_is_shown_and_compared_with_nothing(study, made_up, capsys):
    file = made_up(arms=('one',))
    study.main(['show', 'grey-300', '--table', str(file)])
    said = capsys.readouterr().out
    assert '80.00' in said
    assert not any(word in said for word in ('better', 'worse', 'no difference', 'seeds to be found'))


def test_lines_of_other_settings_are_kept_and_not_used(study, made_up, monkeypatch, capsys):
    file = made_up()
    before = file.read_text()
    monkeypatch.setattr(plan, 'STEPS', 40)
    study.mark_of.cache_clear()
    study.main(['show', 'grey-300', '--table', str(file)])
    assert 'No arm has all its runs' in capsys.readouterr().out
    assert file.read_text() == before


def test_another_table_is_refused(study, tmp_path):
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ConfigError, match='is no table of the study'):
        study.main(['show', '--table', str(tmp_path / 'other.csv')])
