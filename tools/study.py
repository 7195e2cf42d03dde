#!/usr/bin/env python
"""What does the contrast add? The study of docs/study.md: list, run and show it.

python tools/study.py list                     points and arms, and what has been run
python tools/study.py run --jobs 2             everything that is missing, point by point
python tools/study.py run colour-58 --arms both,supcon --jobs 2
python tools/study.py show --write docs        tables and figures, from what has ended
python tools/study.py inside colour-58 --arms one,both,supcon   probes and calibration of the networks that it kept

Every run that has ended is a line of the table (--table); what is there is not run again, so a command can be stopped
and given again. Lines of other settings than today's are kept and not used.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import os
import shutil
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from mmcds.cli.launch import output_file, output_folder, positive, print_table, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.sweep import Run, execute
from mmcds.openmmlab.work_dir import write_whole
from mmcds.study.plan import (
    ARMS,
    FINAL_SEEDS,
    POINTS,
    TEACHER,
    TRIAL_SEEDS,
    Arm,
    Point,
    arms_of,
    chosen,
    compose_teacher,
    place_teacher,
)
from mmcds.study.report import HEADER, Line, lines_of, remark, texts, write
from mmcds.study.results import METRICS, Job, Results, rate_source

#: Head of the page that :func:`inside` writes.
INSIDE = (
    '# Inside the networks of the study',
    '',
    'Written by `python tools/study.py inside POINTS --write docs`: the networks of',
    '[study_results.md](study_results.md), five seeds of an arm. The probe is fitted to training images and measured',
    'on the test images; [inside.md](inside.md) says what the columns are, [calibration.md](calibration.md) those of',
    'the second table.',
    '',
)


def run_jobs(jobs: Sequence[Job], results: Results, args: Namespace) -> None:
    """Run what has not ended yet, and write every result down as soon as it is there."""
    missing = {job.key: job for job in jobs if results.find(job) is None}
    runs = {}
    for job in missing.values():
        folder = Path(
            args.work_dir, job.point.name, job.arm.name, f'{job.stage}_{job.rate:g}_{job.value:g}_{job.seed}'
        )
        folder.mkdir(parents=True, exist_ok=True)
        file, config = folder / 'run.py', job.config()
        if job.arm.taught:
            place_teacher(config.model, str(teacher_place(Path(args.work_dir)).resolve()))
        file.write_text(config.pretty_text)
        label = f'{job.point.name}/{job.arm.name} {job.stage} {job.value:g}'
        runs[Run(label, str(file), job.seed, folder)] = job

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
    return work_dir / 'networks' / f'{job.name}.pth'


def teacher_place(work_dir: Path) -> Path:
    """Return where the rivals' teacher is kept, without the endings of its two files."""
    return work_dir / 'networks' / Path(TEACHER).name


def train_teacher(work_dir: Path) -> None:
    """Train the teacher of the rivals, unless it is there."""
    kept, folder = teacher_place(work_dir).with_suffix('.pth'), work_dir / 'teacher'
    if kept.is_file():
        return
    for each in (kept.parent, folder):
        each.mkdir(parents=True, exist_ok=True)
    config = compose_teacher()
    (folder / 'run.py').write_text(config.pretty_text)
    execute([Run('teacher', str(folder / 'run.py'), 0, folder)])
    (folder / 'run.py').replace(kept.with_suffix('.py'))
    (folder / f'epoch_{config.train_cfg.max_epochs}.pth').replace(kept)
    shutil.rmtree(folder)


def run(args: Namespace) -> None:
    """Run the trials of every point, then what has been chosen; then show it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    os.environ.setdefault('OMP_NUM_THREADS', str(max(1, cores // args.jobs)))
    results = Results(Path(args.table))
    for point in chosen(POINTS, args.points, 'point'):
        arms = wanted_arms(point, args)
        if any(arm.taught for arm in arms):
            train_teacher(Path(args.work_dir))
        pairs = [(point, arm) for arm in arms]
        for few in ([rate_source(point)], pairs):  # the learning rate first, whether its arm is asked for or not
            trials = [results.trials(*pair).values() for pair in few]
            run_jobs([job for tried in trials for jobs in tried for job in jobs], results, args)
        run_jobs(sorted(results.final_jobs(pairs), key=lambda job: job.seed), results, args)
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
            finals = results.finals(point, arm)
            ended = sum(len(results.scores(jobs)) for jobs in finals.values())
            rows.append(
                (
                    point.name,
                    point.title,
                    arm.name,
                    arm.title,
                    f'{arm.setting}: {", ".join(f"{value:g}" for value in arm.values)}',
                    f'{tried} of {len(arm.values) * len(TRIAL_SEEDS)}',
                    '' if best is None else f'{best:g}',
                    f'{ended} of {len(FINAL_SEEDS) * max(len(finals), 1)}',
                )
            )
    print_table('the study', ('point', '', 'arm', '', 'tried', 'trials', 'chosen', 'final runs'), rows)


def show(args: Namespace) -> dict[str, list[Line]]:
    """Print a table for every point of which an arm has ended; write them, with figures, if asked to."""
    results, found = Results(Path(args.table)), {}
    for point in chosen(POINTS, args.points, 'point'):
        lines = lines_of(point, results)
        if not lines:
            continue
        found[point.name] = lines
        print_table(point.title, HEADER, texts(lines))
        print(remark(lines))
    if not found:
        print(f'No arm has all its runs in {args.table} yet: `{args.tool} run --jobs 2` makes them.')
    elif args.write:
        finals = results.final_jobs((point, arm) for point in POINTS.values() for arm in arms_of(point))
        used = {describe(row) for job in finals if (row := results.find(job))}
        print('written:', ', '.join(map(str, write(found, used, Path(args.write)))))
    return found


def describe(row: dict[str, str]) -> str:
    """Return versions and hardware of a run."""
    return f'Run with {row["versions"]} on {row["device"]}.'


def inside(args: Namespace) -> None:
    """Measure the stages and the calibration of the kept networks; write tables and a figure if asked to."""
    results, work_dir = Results(Path(args.table)), Path(args.work_dir)
    page = [*INSIDE]
    for point in chosen(POINTS, args.points, 'point'):
        finals = results.final_jobs((point, arm) for arm in wanted_arms(point, args))
        jobs = [job for job in finals if network_file(job, work_dir).is_file()]
        if not jobs:
            raise ConfigError(
                f'no network of {point.name} is in {work_dir / "networks"}. `{args.tool} run {point.name}` keeps them.'
            )
        files = [str(network_file(job, work_dir).with_suffix(end)) for job in jobs for end in ('.py', '.pth')]
        names = [job.arm.title for job in jobs]
        page += [f'## {point.title}', '']
        for tool, options in (('probe', []), ('calibration', ['--temperature-scaling'])):
            out = work_dir / 'inside' / point.name / tool
            command = [sys.executable, str(Path(__file__).with_name(f'{tool}.py')), *files, '--out', str(out)]
            subprocess.run([*command, '--names', *names, *options], check=True)
            page += [(out / f'{tool}.md').read_text().strip(), '']
        if args.write:
            figure = Path(args.write, f'study_inside_{point.name}.png')
            shutil.copyfile(work_dir / 'inside' / point.name / 'probe' / 'probe.png', figure)
            page += [f'![the stages, {point.title}]({figure.name})', '']
    if args.write:
        write_whole(Path(args.write, 'study_inside.md'), '\n'.join(page).rstrip() + '\n')
        print('written:', Path(args.write, 'study_inside.md'))


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
    looking = commands.add_parser('inside', parents=[common], help='probes and calibration of the networks it kept')
    for command in (running, looking):
        command.add_argument('--work-dir', type=output_folder, default='work_dirs/study', help='folder of the runs')
    for command in (listing, running, looking):
        command.add_argument('--arms', default='all', help=f'comma separated (default: all): {", ".join(ARMS)}')
    showing = commands.add_parser('show', parents=[common], help='tables, from what has ended')
    for command in (running, showing, looking):
        command.add_argument('--write', type=output_folder, help='folder for pages and figures')
    args = parser.parse_args(argv)
    args.tool = parser.prog
    {'list': list_all, 'run': run, 'show': show, 'inside': inside}[args.command](args)


if __name__ == '__main__':
    run_tool(main)
