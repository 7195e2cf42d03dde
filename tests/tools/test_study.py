"""The study as a command: runs what is missing, chooses, compares, and says what it found."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.work_dir import locked
from mmcds.study import plan, report, results

ARGS = ['grey-300', '--arms', 'one,both']


@pytest.fixture
def study(tool, monkeypatch):
    """The tool, with a plan of two steps and one trial seed."""
    module = tool('study')
    monkeypatch.setattr(plan, 'STEPS', 8)
    for place in (module, results):
        monkeypatch.setattr(place, 'TRIAL_SEEDS', (0,))
        monkeypatch.setattr(place, 'FINAL_SEEDS', (10, 11))
    for name in ('one', 'both'):
        arm = plan.ARMS[name]
        monkeypatch.setitem(plan.ARMS, name, plan.Arm(**{**vars(arm), 'values': (0.05, 0.1)}))
    results.mark_of.cache_clear()
    yield module
    results.mark_of.cache_clear()


@pytest.fixture
def made_up(study, tmp_path):
    """A table in which the trials prefer 0.1, and the second view gives one or two points more."""

    def write(extra=0.0, arms=('one', 'both')):
        table = results.Results(tmp_path / 'study.csv')
        for name in arms:
            gain = float(name == 'both')
            fill(table, 'grey-300', name, lambda seed, _, gain=gain: 80 + gain * (1.5 + extra * (seed - 10.5)))
        return table.file

    return write


ENDS = ('.py', '.pth')
WHERE = dict(versions='Python 3, mmcds 0', device='CPU, 2 cores', ended='2026-01-01')


def fill(table, place, name, accuracy, trial=lambda value: 70 + 10 * value):
    """Write all runs of an arm: trials by their value, final runs by seed and value."""
    point, arm = plan.POINTS[place], plan.ARMS[name]
    for job in [job for jobs in table.trials(point, arm).values() for job in jobs]:
        table.add(job, dict(accuracy=str(trial(job.value)), ece='0.1', nll='1', **WHERE))
    for job in [job for jobs in table.finals(point, arm).values() for job in jobs]:
        table.add(job, dict(accuracy=str(accuracy(job.seed, job.value)), ece='0.05', nll='0.5', **WHERE))


def test_two_processes_add_to_one_table(study, tmp_path):
    first, second = results.Results(tmp_path / 'study.csv'), results.Results(tmp_path / 'study.csv')
    point, arm = plan.POINTS['grey-300'], plan.ARMS['one']
    jobs = [results.Job(point, arm, 'trial', 0.1, value, 0) for value in (0.05, 0.1)]
    for table, job in zip((first, second), jobs, strict=True):
        table.add(job, dict(accuracy='80', ece='0.1', nll='1', **WHERE))
    assert results.Results(tmp_path / 'study.csv').rows.keys() == {job.key for job in jobs} == second.rows.keys()


def test_who_changes_a_file_waits_for_who_does(tmp_path):
    code = (
        'import sys, time; from pathlib import Path; from mmcds.openmmlab.work_dir import locked\n'
        'file = Path(sys.argv[1])\n'
        'with locked(file): print("mine", flush=True); time.sleep(1); file.write_text("whole")\n'
    )
    command = [sys.executable, '-c', code, str(tmp_path / 'file')]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'mine\n'
        assert not (tmp_path / 'file').exists()
        with locked(tmp_path / 'file'):
            assert (tmp_path / 'file').read_text() == 'whole'


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
    assert not list(tmp_path.glob('work/*/*/*')), 'what has ended is a line of the table'
    kept = {path.name for path in tmp_path.glob('work/networks/*')}
    assert kept == {f'grey-300_{arm}_0.1_{seed}{end}' for arm in ('one', 'both') for seed in (10, 11) for end in ENDS}
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
    results.mark_of.cache_clear()
    study.main(['show', 'grey-300', '--table', str(file)])
    assert 'No arm has all its runs' in capsys.readouterr().out
    assert file.read_text() == before


def test_another_table_is_refused(study, tmp_path):
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ConfigError, match='is no table of the study'):
        study.main(['show', '--table', str(tmp_path / 'other.csv')])


def test_rivals_are_shown_with_the_published_weight_and_with_the_chosen_one(study, tmp_path):
    """Both are compared with the reference at its chosen weight; one line where they are the same."""
    table = results.Results(tmp_path / 'study.csv')
    fill(table, 'grey-1000', 'one', lambda *_: 80)
    fill(table, 'rivals', 'kd', lambda seed, _: 85 + 0.01 * seed, trial=lambda value: -abs(value - 1))
    fill(table, 'rivals', 'dkd', lambda seed, value: 85 + (value == 3) + 0.011 * seed, trial=lambda value: value)
    lines = report.lines_of(plan.POINTS['rivals'], table)
    assert [line.arm.name + line.origin for line in lines] == [
        'kd (chosen, published)',
        'dkd (chosen)',
        'dkd (published)',
    ]
    assert [line.value for line in lines] == [1, 3, 1]
    assert lines[0].difference is None
    assert [line.difference.mean for line in lines[1:]] == pytest.approx([1.0105, 0.0105])


def test_the_curve_has_the_second_view_and_the_contrast_by_images_of_a_class(study, tmp_path):
    """Every line is a paired difference of two arms, from the fewest images of a class to the most."""
    table = results.Results(tmp_path / 'study.csv')
    for place, gain in (('grey-1000', 0.5), ('grey-300', 2.0), ('colour-8', 1.0), ('noise-20', 9.0)):
        arms = ('one', 'both', 'supcon') if 'one' in plan.POINTS[place].arms else ('both', 'supcon')
        for step, name in enumerate(arms):
            fill(table, place, name, lambda seed, _, step=step, gain=gain: 80 + gain * step**2 + 0.01 * seed)
    found = {place: report.lines_of(plan.POINTS[place], table) for place in plan.POINTS}
    curves = report.curve(found)
    second, contrast = ([(point.name, each.mean) for point, each in curves[title]] for *_, title in report.CURVES)
    assert second == [('grey-300', 2), ('grey-1000', 0.5), ('colour-8', 1)], 'per class: 30, 100, 247; no wrong labels'
    assert contrast == [('grey-300', 6), ('grey-1000', 1.5), ('colour-8', 3)]
    files = report.write({name: lines for name, lines in found.items() if lines}, ['Run.'], tmp_path)
    assert [file.name for file in files] == ['study_results.md', 'study.png', 'study_curve.png']
    assert '| the contrast, beside both views | grey, 10 classes, 300 images | 30 | +6.00 |' in files[0].read_text()


def test_a_rival_learns_from_a_teacher_that_the_study_trains_once(study, tmp_path, monkeypatch):
    """The teacher is trained, kept with its config and read by the student's training."""
    monkeypatch.setattr(plan, 'STEPS', 30)  # two epochs of 1,000 images
    short = plan.compose_teacher()
    short.merge_from_dict({'train_cfg.max_epochs': 2, 'param_scheduler.1.end': 2})
    short.train_dataloader.dataset.indices = 64
    monkeypatch.setattr(study, 'compose_teacher', lambda: short)
    monkeypatch.setitem(plan.ARMS, 'kd', plan.Arm(**{**vars(plan.ARMS['kd']), 'values': (1.0,)}))
    table = results.Results(tmp_path / 'study.csv')
    fill(table, 'grey-1000', 'one', lambda *_: 80)
    arguments = ['run', 'rivals', '--arms', 'kd', '--table', str(table.file), '--work-dir', str(tmp_path / 'work')]
    study.main(arguments)
    ended = results.Results(table.file)
    lines = [row for row in ended.rows.values() if row['arm'] == 'kd']
    assert sorted((row['stage'], row['seed']) for row in lines) == [('final', '10'), ('final', '11'), ('trial', '0')]
    kept = {path.name for path in tmp_path.glob('work/networks/*')}
    assert {f'teacher{end}' for end in ENDS} < kept
    before = (tmp_path / 'work/networks/teacher.pth').stat().st_mtime_ns
    study.main(arguments)
    assert (tmp_path / 'work/networks/teacher.pth').stat().st_mtime_ns == before


def test_an_arm_waits_for_its_learning_rate(study, tmp_path):
    """Nothing of a rival is run before cross-entropy on one view has chosen, and then with what it has chosen."""
    table = results.Results(tmp_path / 'study.csv')
    rivals, kd = plan.POINTS['rivals'], plan.ARMS['kd']
    assert table.trials(rivals, kd) == {}
    fill(table, 'grey-1000', 'one', lambda *_: 80, trial=lambda value: -value)
    (rate,) = {job.rate for jobs in table.trials(rivals, kd).values() for job in jobs}
    assert rate == 0.05


def test_looking_inside_names_every_kept_network_of_an_arm_alike(study, made_up, tmp_path, monkeypatch):
    """The probe and the calibration get config and weights of each, and the title of its arm: seeds are averaged."""
    file, work = made_up(), tmp_path / 'work'
    places = ['--table', str(file), '--work-dir', str(work), '--write', str(tmp_path / 'out')]
    with pytest.raises(ConfigError, match=r'no network of grey-300 is in .*networks\. `.* run grey-300` keeps them'):
        study.main(['inside', *ARGS, *places])
    (work / 'networks').mkdir(parents=True)
    for arm in ('one', 'both'):
        for seed in (10, 11):
            (work / f'networks/grey-300_{arm}_0.1_{seed}.pth').touch()
    commands = []

    def pretend(command, check):
        commands.append(command)
        out, tool = Path(command[command.index('--out') + 1]), Path(command[1]).stem
        out.mkdir(parents=True)
        (out / f'{tool}.md').write_text(f'| table of {tool} |')
        (out / 'probe.png').write_bytes(b'figure')

    monkeypatch.setattr(study.subprocess, 'run', pretend)
    study.main(['inside', *ARGS, *places])
    page = (tmp_path / 'out/study_inside.md').read_text()
    assert (
        page.index('| table of probe |') < page.index('| table of calibration |') < page.index('study_inside_grey-300')
    )
    assert (tmp_path / 'out/study_inside_grey-300.png').read_bytes() == b'figure'
    for command, tool in zip(commands, ('probe', 'calibration'), strict=True):
        assert command[1].endswith(f'{tool}.py')
        start = command.index('--names')
        networks = command[2 : command.index('--out')]
        stems = ['grey-300_one_0.1_10', 'grey-300_one_0.1_11', 'grey-300_both_0.1_10', 'grey-300_both_0.1_11']
        assert networks == [str(work / f'networks/{stem}{end}') for stem in stems for end in ENDS]
        assert command[start + 1 : start + 5] == [plan.ARMS[name].title for name in ('one', 'one', 'both', 'both')]
        assert ('--temperature-scaling' in command) == (tool == 'calibration')


def test_pages_say_what_the_table_of_runs_says(tool, tmp_path):
    """The pages of the site are those that `show` writes today, and the short table of rivals has their numbers."""
    docs = Path(__file__).parents[2] / 'docs'
    results.mark_of.cache_clear()
    tool('study').main(['show', '--table', str(docs / 'study.csv'), '--write', str(tmp_path)])
    page = (tmp_path / 'study_results.md').read_text()
    assert page == (docs / 'study_results.md').read_text()

    rivals = [row.split(' | ') for row in page.partition('## rivals')[2].splitlines() if ' times its weights ' in row]
    said = {}  # published, factor, chosen
    for method, setting, _, accuracy, *_ in rivals:
        row = said.setdefault(method, ['', '', 'the same'])
        if 'published' in setting:
            row[0] = accuracy
        if 'chosen' in setting:
            row[1] = setting.split()[3]
            row[2] = accuracy if 'published' not in setting else 'the same'
    assert len(said) == 16
    short = (docs / 'baselines.md').read_text()
    for method, row in said.items():
        assert ' | '.join([method, *row]) + ' |' in short
