#!/usr/bin/env python
"""What does the contrast add? The study of docs/study.md: list, run and show it.

python tools/study.py list                     points and arms, and what has been run
python tools/study.py run --jobs 2             everything that is missing, point by point
python tools/study.py run colour-58 --arms both,supcon --jobs 2
python tools/study.py show --write docs        tables and figure, from what has ended

Every run that has ended is a line of the table (--table); what is there is not run again, so a command can be stopped
and given again. Lines of other settings than today's are kept and not used.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import csv
import io
import os
import shutil
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from matplotlib.figure import Figure
from mmengine.config import Config

from mmcds.cli.launch import output_file, output_folder, positive, print_table, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import markdown_table, mean_spread, spread_text
from mmcds.evaluation.sweep import Run, execute
from mmcds.openmmlab.work_dir import write_whole
from mmcds.study.plan import (
    ARMS,
    FINAL_SEEDS,
    POINTS,
    RATE,
    REFERENCE,
    TRIAL_SEEDS,
    Arm,
    Point,
    arms_of,
    chosen,
    compose_run,
    fingerprint,
)
from mmcds.study.statistics import Comparison, choose, compare, holm, seeds_needed

#: Column of the table and metric of the run: top-1 accuracy in percent, fraction, nats.
METRICS = {'accuracy': 'accuracy/top1', 'ece': 'calibration/ece', 'nll': 'calibration/nll'}
#: What tells a run from the others: its place in the study, and the fingerprint of its config.
KEY = ('point', 'arm', 'stage', 'value', 'seed', 'config')
COLUMNS = (*KEY, *METRICS, 'versions', 'device', 'ended')
#: The difference that the number of seeds is computed for, in points of accuracy.
DIFFERENCE = 0.3


@dataclass(frozen=True)
class Job:
    """A run of the study, by what tells it from the others."""

    point: Point
    arm: Arm
    stage: str
    rate: float
    value: float
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """Return the fields of :data:`KEY`."""
        mark = mark_of(self.point.name, self.arm.name, self.stage, self.rate, self.value)
        return self.point.name, self.arm.name, self.stage, f'{self.value:g}', str(self.seed), mark

    def config(self) -> Config:
        """Compose what it trains."""
        return compose_run(self.point, self.arm, self.rate, self.value, test=self.stage == 'final')


@cache
def mark_of(point: str, arm: str, stage: str, rate: float, value: float) -> str:
    """Return the fingerprint of a config."""
    return fingerprint(Job(POINTS[point], ARMS[arm], stage, rate, value, 0).config())


class Results:
    """The table of what has been run.

    Args:
        file: A CSV file; made with the first run.

    Raises:
        ConfigError: If it is another table.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[tuple[str, ...], dict[str, str]] = {}
        if file.is_file():
            with file.open(newline='') as stream:
                reader = csv.DictReader(stream)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ConfigError(f'{file} is no table of the study: its columns are not {", ".join(COLUMNS)}.')
                self.rows = {tuple(row[name] for name in KEY): row for row in reader}

    def add(self, job: Job, values: Mapping[str, str]) -> None:
        """Add a run, and write all of them."""
        self.rows[job.key] = {**dict(zip(KEY, job.key, strict=True)), **values}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(self.rows[key] for key in sorted(self.rows))
        write_whole(self.file, text.getvalue())

    def find(self, job: Job) -> dict[str, str] | None:
        """Return the row of a run, if it has ended with today's settings."""
        return self.rows.get(job.key)

    def scores(self, jobs: Iterable[Job], metric: str = 'accuracy') -> dict[int, float]:
        """Return a metric by seed, of the runs that have ended."""
        found = {job.seed: self.find(job) for job in jobs}
        return {seed: float(row[metric]) for seed, row in found.items() if row is not None}

    def rate(self, point: Point, arm: Arm) -> float | None:
        """Return the learning rate of an arm that does not choose it: what the reference has chosen, once it has."""
        return arm.values[0] if arm.setting == RATE else self.choice(point, ARMS[REFERENCE])

    def trials(self, point: Point, arm: Arm) -> dict[float, list[Job]]:
        """Return the trials of an arm by value; none before the reference has chosen."""
        rate = self.rate(point, arm)
        if rate is None:
            return {}
        return {value: [Job(point, arm, 'trial', rate, value, seed) for seed in TRIAL_SEEDS] for value in arm.values}

    def choice(self, point: Point, arm: Arm) -> float | None:
        """Return the chosen value of an arm's setting; None until all trials have ended."""
        scores = {value: list(self.scores(jobs).values()) for value, jobs in self.trials(point, arm).items()}
        if not scores or any(len(found) < len(TRIAL_SEEDS) for found in scores.values()):
            return None
        return choose(scores)

    def finals(self, point: Point, arm: Arm) -> list[Job]:
        """Return the runs that are measured on the test images; none before all trials have ended."""
        rate, value = self.rate(point, arm), self.choice(point, arm)
        if rate is None or value is None:
            return []
        return [Job(point, arm, 'final', rate, value, seed) for seed in FINAL_SEEDS]


def run_jobs(jobs: Sequence[Job], results: Results, args: Namespace) -> None:
    """Run what has not ended yet, and write every result down as soon as it is there."""
    missing = {job.key: job for job in jobs if results.find(job) is None}
    runs = {}
    for job in missing.values():
        folder = Path(
            args.work_dir, job.point.name, job.arm.name, f'{job.stage}_{job.rate:g}_{job.value:g}_{job.seed}'
        )
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / 'run.py'
        config.write_text(job.config().pretty_text)
        label = f'{job.point.name}/{job.arm.name} {job.stage} {job.value:g}'
        runs[Run(label, str(config), job.seed, folder)] = job

    def keep(run: Run, record: dict) -> None:
        numbers = {name: f'{record["metrics"][metric]:.6f}' for name, metric in METRICS.items()}
        results.add(runs[run], {**numbers, **record['provenance']})
        if runs[run].stage == 'final':
            keep_network(runs[run], run.work_dir, Path(args.work_dir))
        shutil.rmtree(run.work_dir)
        print(f'{run.label}, seed {run.seed}: {float(numbers["accuracy"]):.2f} %', flush=True)

    execute(list(runs), args.jobs, done=keep)


def keep_network(job: Job, folder: Path, work_dir: Path) -> None:
    """Keep the last checkpoint of a final run, and its config, under one name."""
    kept = network_file(job, work_dir)
    kept.parent.mkdir(parents=True, exist_ok=True)
    (checkpoint,) = folder.glob('epoch_*.pth')
    checkpoint.replace(kept)
    kept.with_suffix('.py').write_text(job.config().pretty_text)


def network_file(job: Job, work_dir: Path) -> Path:
    """Return where the network of a final run is kept."""
    return work_dir / 'networks' / f'{job.point.name}_{job.arm.name}_{job.seed}.pth'


def run(args: Namespace) -> None:
    """Run the trials of every point, then what has been chosen; then show it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cores // args.jobs)))
    results = Results(Path(args.table))
    for point in chosen(POINTS, args.points, 'point'):
        arms = wanted_arms(point, args)
        for few in ([ARMS[REFERENCE]], arms):  # the reference chooses first, whether it is asked for or not
            run_jobs(
                [job for arm in few for jobs in results.trials(point, arm).values() for job in jobs], results, args
            )
        last = [job for arm in arms for job in results.finals(point, arm)]
        run_jobs(sorted(last, key=lambda job: job.seed), results, args)
    show(args)


def wanted_arms(point: Point, args: Namespace) -> list[Arm]:
    """Return the arms of a point that are asked for."""
    asked = chosen(ARMS, args.arms, 'arm')
    return [arm for arm in arms_of(point) if arm in asked]


def list_all(args: Namespace) -> None:
    """Print points and arms, and how many of their runs have ended."""
    results, rows = Results(Path(args.table)), []
    for point in chosen(POINTS, args.points, 'point'):
        for arm in wanted_arms(point, args):
            tried = sum(len(results.scores(jobs)) for jobs in results.trials(point, arm).values())
            best = results.choice(point, arm)
            ended = len(results.scores(results.finals(point, arm)))
            rows.append(
                (
                    point.name,
                    point.title,
                    arm.name,
                    arm.title,
                    f'{arm.setting.rpartition(".")[2]}: {", ".join(f"{value:g}" for value in arm.values)}',
                    f'{tried} of {len(arm.values) * len(TRIAL_SEEDS)}',
                    '' if best is None else f'{best:g}',
                    f'{ended} of {len(FINAL_SEEDS)}',
                )
            )
    print_table('the study', ('point', '', 'arm', '', 'tried', 'trials', 'chosen', 'final runs'), rows)


@dataclass(frozen=True)
class Line:
    """An arm at a point.

    Attributes:
        arm: The arm.
        value: The chosen value of its setting.
        held_out: Accuracy on the held-out images with it, of every trial, in percent.
        accuracy: Accuracy on the test images by seed, in percent.
        ece: Calibration error of the same, in percent.
        nll: Negative log-likelihood of the same, in nats.
        difference: From the reference; None for itself.
        adjusted: Its p, by Holm's rule over the arms of the point.
    """

    arm: Arm
    value: float
    held_out: tuple[float, ...]
    accuracy: dict[int, float]
    ece: tuple[float, ...]
    nll: tuple[float, ...]
    difference: Comparison | None = None
    adjusted: float = 1.0

    @property
    def verdict(self) -> str:
        """Return what the study says of the arm beside the reference; nothing of the reference itself."""
        if self.difference is None:
            return ''
        if self.adjusted >= 0.05:
            return 'no difference found'
        return 'better' if self.difference.mean > 0 else 'worse'


def lines_of(point: Point, results: Results) -> list[Line]:
    """Return the arms of a point whose runs have all ended, compared with the reference if that is one of them."""
    found = {}
    for arm in arms_of(point):
        value, jobs = results.choice(point, arm), results.finals(point, arm)
        accuracy = results.scores(jobs)
        if value is None or len(accuracy) < len(jobs):
            continue
        found[arm.name] = Line(
            arm,
            value,
            tuple(results.scores(results.trials(point, arm)[value]).values()),
            accuracy,
            tuple(100 * value for value in results.scores(jobs, 'ece').values()),
            tuple(results.scores(jobs, 'nll').values()),
        )
    if REFERENCE not in found:
        return list(found.values())
    others = [line for name, line in found.items() if name != REFERENCE]
    compared = [compare(line.accuracy, found[REFERENCE].accuracy) for line in others]
    adjusted = dict(zip((line.arm.name for line in others), holm([each.p for each in compared]), strict=True))
    differences = dict(zip(adjusted, compared, strict=True))
    return [
        line if name == REFERENCE else replace(line, difference=differences[name], adjusted=adjusted[name])
        for name, line in found.items()
    ]


HEADER = ('arm', 'chosen', 'held-out (%)', 'test (%)', 'difference', '95 %', 'p', '', 'ECE (%)', 'NLL (nats)')


def texts(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return the rows of a point's table."""
    rows = []
    for line in lines:
        difference = ('', '', '', '')
        if line.difference is not None:
            each = line.difference
            difference = (
                f'{each.mean:+.2f}',
                f'{each.low:+.2f} to {each.high:+.2f}',
                f'{line.adjusted:.3f}',
                line.verdict,
            )
        rows.append(
            (
                line.arm.title,
                f'{line.arm.setting.rpartition(".")[2]} {line.value:g}',
                spread_text(line.held_out),
                spread_text(tuple(line.accuracy.values())),
                *difference,
                spread_text(line.ece),
                spread_text(line.nll, 3),
            )
        )
    return rows


def remark(lines: Sequence[Line]) -> str:
    """Return how many seeds a difference of :data:`DIFFERENCE` needs at a point; nothing without comparisons."""
    spreads = [line.difference.spread for line in lines if line.difference is not None]
    if not spreads:
        return ''
    typical = mean_spread(sorted(spreads)[(len(spreads) - 1) // 2 : len(spreads) // 2 + 1])[0]
    return (
        f'The differences of a seed spread by {typical:.2f} points (median of the arms), so a true difference of '
        f'{DIFFERENCE:g} points would need {seeds_needed(typical, DIFFERENCE)} seeds to be found in four of '
        'five studies.'
    )


def draw(found: dict[str, list[Line]], out: Path) -> None:
    """Draw the differences from the reference with their intervals, one panel per point."""
    shown = {name: [line for line in lines if line.difference is not None] for name, lines in found.items()}
    shown = {name: lines for name, lines in shown.items() if lines}
    if not shown:
        return
    order = [arm for arm in ARMS if any(line.arm.name == arm for lines in shown.values() for line in lines)]
    figure = Figure(figsize=(2.2 + 2.6 * len(shown), 0.9 + 0.34 * len(order)), layout='constrained')
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(panels, shown.items(), strict=True):
        for line in lines:
            each, height = line.difference, -order.index(line.arm.name)
            colour = {'better': 'tab:green', 'worse': 'tab:red'}.get(line.verdict, 'tab:gray')
            axes.plot((each.low, each.high), (height, height), color=colour)
            axes.plot(each.mean, height, 'o', color=colour, markersize=4)
        axes.axvline(0, color='black', linewidth=0.8)
        axes.set_title(POINTS[name].title.replace(', ', ',\n', 1), fontsize='small')
        axes.grid(axis='x', alpha=0.3)
    panels[0].set_yticks([-number for number in range(len(order))], [ARMS[name].title for name in order], fontsize=7)
    figure.supxlabel(f'points of accuracy above "{ARMS[REFERENCE].title}", mean and 95 % interval', fontsize='small')
    figure.savefig(out, dpi=150)


def show(args: Namespace) -> dict[str, list[Line]]:
    """Print a table for every point of which an arm has ended; write them, with a figure, if asked to."""
    results, found, page = Results(Path(args.table)), {}, []
    for point in chosen(POINTS, args.points, 'point'):
        lines = lines_of(point, results)
        if not lines:
            continue
        found[point.name] = lines
        print_table(point.title, HEADER, texts(lines))
        print(remark(lines))
        page += [f'## {point.title}', '', markdown_table(HEADER, texts(lines)), '', remark(lines), '']
    if not found:
        print(f'No arm has all its runs in {args.table} yet: `{args.tool} run --jobs 2` makes them.')
    elif args.write:
        used = {row for job in finished(results) if (row := describe(results.find(job)))}
        head = [
            '# Results of the study',
            '',
            'Written by `python tools/study.py show --write docs`; [study.md](study.md) says what was asked and how.',
            "Mean ± sample standard deviation; p by paired t-tests with Holm's correction within a point; an arm is",
            'called better or worse where p < 0.05.',
            '',
            *sorted(used),
            '',
            '![differences from cross-entropy on both views](study.png)',
            '',
        ]
        write_whole(Path(args.write, 'study_results.md'), '\n'.join([*head, *page]).rstrip() + '\n')
        draw(found, Path(args.write, 'study.png'))
        print(f'written: {Path(args.write, "study_results.md")}, {Path(args.write, "study.png")}')
    return found


def finished(results: Results) -> list[Job]:
    """Return the final runs that have ended."""
    every = [job for point in POINTS.values() for arm in arms_of(point) for job in results.finals(point, arm)]
    return [job for job in every if results.find(job)]


def describe(row: dict[str, str] | None) -> str:
    """Return versions and hardware of a run."""
    return '' if row is None else f'Run with {row["versions"]} on {row["device"]}.'


def main(argv: list[str] | None = None) -> None:
    """Do what the command says."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    common = ArgumentParser(add_help=False)
    common.add_argument('points', nargs='?', default='all', help=f'comma separated, or all: {", ".join(POINTS)}')
    common.add_argument(
        '--table',
        type=output_file('.csv'),
        default='docs/study.csv',
        help='table of all runs, read and written (default: docs/study.csv)',
    )
    listing = commands.add_parser('list', parents=[common], help='points and arms, and what has been run')
    running = commands.add_parser('run', parents=[common], help='run what is missing')
    running.add_argument('--jobs', type=positive, default=1, help='trainings at a time (default: 1)')
    running.add_argument(
        '--work-dir', type=output_folder, default='work_dirs/study', help='folder of runs that have not ended'
    )
    for command in (listing, running):
        command.add_argument('--arms', default='all', help=f'comma separated (default: all): {", ".join(ARMS)}')
    showing = commands.add_parser('show', parents=[common], help='tables, from what has ended')
    for command in (running, showing):
        command.add_argument('--write', type=output_folder, help='folder for study_results.md and study.png')
    args = parser.parse_args(argv)
    args.tool = parser.prog
    {'list': list_all, 'run': run, 'show': show}[args.command](args)


if __name__ == '__main__':
    run_tool(main)
