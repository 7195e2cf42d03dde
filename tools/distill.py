#!/usr/bin/env python
"""Teacher, student alone and distilled student in one command, compared over seeds.

python tools/distill.py --jobs 2 does it on the embedded images. Every student whose config has a teacher gets the
teacher of its own seed. Runs that have ended are not repeated.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser
from pathlib import Path

from mmcds.cli.launch import OPTIONS_HELP, run_tool
from mmcds.evaluation.sweep import Run, execute, summarise
from mmcds.openmmlab.teacher import read_model_config

STUDENT = 'mmcds::distill/resnet18w8s_fashion'


def main(argv: list[str] | None = None) -> list[dict]:
    """Train what is missing and print the table; return one record per run."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        '--teacher', default='mmcds::distill/resnet18w16s_fashion-teacher.py', help='config of the teacher'
    )
    parser.add_argument(
        '--students',
        nargs='+',
        default=[f'{STUDENT}-plain.py', f'{STUDENT}-cds.py', f'{STUDENT}.py'],
        help='configs of the students',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='one training of each per seed')
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time')
    parser.add_argument('--out', default='work_dirs/distill', help='folder for the runs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=OPTIONS_HELP)
    args = parser.parse_args(argv)

    def runs(config: str, teachers: dict[int, Path]) -> list[Run]:
        name = Path(config.split('::')[-1]).stem
        return [
            Run(
                label=name,
                config=config,
                seed=seed,
                work_dir=Path(args.out) / f'{name}_{seed}',
                options=(*args.cfg_options, *([f'model.teacher.checkpoint={teachers[seed]}'] if teachers else [])),
            )
            for seed in args.seeds
        ]

    teachers = runs(args.teacher, {})
    records = execute(teachers, args.jobs)
    files = {run.seed: Path((run.work_dir / 'last_checkpoint').read_text().strip()) for run in teachers}
    records += execute(
        [
            run
            for config in args.students
            for run in runs(config, files if read_model_config(config)[0].get('teacher') else {})
        ],
        args.jobs,
    )
    for (label, _), (mean, spread, count) in summarise(records).items():
        print(f'{label:<36} {mean:6.2f} ± {spread:.2f} (n={count})')
    return records


if __name__ == '__main__':
    run_tool(main)
