#!/usr/bin/env python
"""Compare detectors as Table 4 of the paper does: python tools/compare_detection.py [LABEL=]WORK_DIR ..."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import csv
import statistics
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmcds.cli.launch import output_file, run_tool
from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import read_scalars, to_percent
from mmcds.evaluation.summary import markdown_table, spread_text

#: Column and what MMDetection calls it.
COLUMNS = {'AP': 'mAP', 'AP50': 'mAP_50', 'AP75': 'mAP_75', 'AP_S': 'mAP_s', 'AP_M': 'mAP_m', 'AP_L': 'mAP_l'}


@dataclass(frozen=True)
class Result:
    """What one run reached.

    Attributes:
        label: Runs of the same label are repetitions.
        work_dir: Its folder.
        seed: Its seed, or None.
        epoch: After which epoch it was evaluated.
        scores: In percent, by column; None where the data has no object of that size.
    """

    label: str
    work_dir: Path
    seed: int | None
    epoch: int
    scores: dict[str, float | None]


def read_run(argument: str, kind: str, best: bool) -> Result:
    """Read one run, ``WORK_DIR`` or ``LABEL=WORK_DIR``; without a label it is called as its config.

    Raises:
        ConfigError: If the folder holds no run, or no COCO evaluation.
    """
    label, _, folder = argument.rpartition('=')
    work_dir, key = Path(folder), f'coco/{kind}_'
    records = [record for record in read_scalars(work_dir)[1] if f'{key}mAP' in record]
    if not records:
        raise ConfigError(
            f'{work_dir} holds no evaluation with {key}mAP. Name the work_dir of a detector that was validated'
            f'{"; boxes are compared with --metric bbox" if kind == "segm" else ""}.'
        )
    record = max(records, key=lambda r: r[f'{key}mAP']) if best else records[-1]
    configs = sorted(work_dir.glob('*.py'))  # the runner writes the config of the run there
    seed = None
    if configs:
        label = label or configs[-1].stem
        seed = Config.fromfile(configs[-1], import_custom_modules=False).get('randomness', {}).get('seed')
    values = {column: record.get(key + name, -1) for column, name in COLUMNS.items()}
    scores = {column: value * to_percent(key) if value >= 0 else None for column, value in values.items()}
    return Result(label or work_dir.name, work_dir, seed, record['epoch'], scores)


def group(results: list[Result], best: bool) -> dict[str, list[Result]]:
    """Runs by label, in the order in which the labels came.

    Raises:
        ConfigError: If runs of one label were not trained equally long, or a run was named twice.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        runs = groups.setdefault(result.label, [])
        if any(result.work_dir.resolve() == other.work_dir.resolve() for other in runs):
            raise ConfigError(f'{result.work_dir} was named twice for {result.label}. Name every run once.')
        runs.append(result)
    for label, runs in groups.items():
        epochs = {run.epoch for run in runs}
        if len(epochs) > 1 and not best:
            raise ConfigError(
                f'{label}: the last evaluations are of different epochs ({", ".join(map(str, sorted(epochs)))}), so '
                'the runs cannot be averaged. Finish them by --resume, or compare the best epochs by --best.'
            )
    return groups


def markdown(groups: dict[str, list[Result]]) -> str:
    """Table with a row per label; the last column is the mean AP minus that of the first label."""
    rows = []
    means = [statistics.mean(run.scores['AP'] or 0.0 for run in runs) for runs in groups.values()]
    for (label, runs), mean in zip(groups.items(), means, strict=True):
        seeds = ', '.join(sorted({'?' if run.seed is None else str(run.seed) for run in runs}))
        epochs = ', '.join(map(str, sorted({run.epoch for run in runs})))
        scores = [[run.scores[column] for run in runs] for column in COLUMNS]
        texts = [spread_text([value for value in values if value is not None], 1) or '-' for values in scores]
        rows.append((label, str(len(runs)), seeds, epochs, *texts, f'{mean - means[0]:+.1f}'))
    return markdown_table(('run', 'n', 'seeds', 'epoch', *COLUMNS, 'AP - first'), rows) + '\n'


def main(argv: list[str] | None = None) -> str:
    """Print the table, write the files, and return the table."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='[LABEL=]WORK_DIR', help='runs of the same label are averaged')
    parser.add_argument('--metric', choices=('bbox', 'segm'), default='bbox', help='boxes or masks (default: bbox)')
    parser.add_argument('--best', action='store_true', help='best epoch by AP (default: the last that was evaluated)')
    parser.add_argument('--out', type=output_file('.md'), help='write the table there, .md')
    parser.add_argument('--csv', type=output_file('.csv'), help='write one line per run there, .csv')
    args = parser.parse_args(argv)
    results = [read_run(argument, args.metric, args.best) for argument in args.runs]
    table = markdown(group(results, args.best))
    print(table, end='')
    if args.out:
        Path(args.out).write_text(table, encoding='utf-8')
    if args.csv:
        with Path(args.csv).open('w', newline='') as stream:
            writer = csv.writer(stream)
            writer.writerow(['run', 'work_dir', 'seed', 'epoch', *COLUMNS])
            for result in results:
                scores = ['' if score is None else f'{score:.1f}' for score in result.scores.values()]
                writer.writerow([result.label, result.work_dir, result.seed, result.epoch, *scores])
    return table


if __name__ == '__main__':
    run_tool(main)
