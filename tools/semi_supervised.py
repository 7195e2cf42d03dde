#!/usr/bin/env python
"""Figure 2 of the paper: accuracy over the share of labels, supervised baseline and semi-supervised CDS.

python tools/semi_supervised.py --jobs 2 trains the version on the embedded images and draws it. Runs that have
ended are not repeated, so the command can be stopped, and given again with more seeds.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser
from pathlib import Path

from mmcds.cli.launch import OPTIONS_HELP, run_tool
from mmcds.evaluation.sweep import Run, execute, summarise


def draw(records: list[dict], out: Path) -> None:
    """Draw one line per method through the means, with bars of one standard deviation and every run as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout='constrained')
    axes = figure.subplots()
    summary = summarise(records)
    for label in dict.fromkeys(record['label'] for record in records):
        points = sorted((x, mean, spread) for (name, x), (mean, spread, _) in summary.items() if name == label)
        line = axes.errorbar(
            [100 * x for x, _, _ in points],
            [mean for _, mean, _ in points],
            [spread for _, _, spread in points],
            marker='o',
            capsize=3,
            label=label,
        )
        own = [record for record in records if record['label'] == label]
        axes.plot(
            [100 * record['x'] for record in own],
            [record['accuracy'] for record in own],
            '.',
            alpha=0.4,
            color=line[0].get_color(),
        )
    runs = sorted({count for _, _, count in summary.values()})
    axes.set(
        xlabel='training images with label (%)',
        ylabel='top-1 accuracy (%)',
        title=f'mean and standard deviation of {"-".join(map(str, runs))} run(s)',
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    figure.savefig(out, dpi=150)


def main(argv: list[str] | None = None) -> list[dict]:
    """Train what is missing, print the table, draw the figure; return one record per run."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        '--config',
        default='mmcds::semi/resnet18w16s_fashion.py',
        help='semi-supervised config; its baselines are named CONFIG-VARIANT.py',
    )
    parser.add_argument(
        '--variants',
        nargs='+',
        default=['plain', 'cds'],
        help='what to compare: cds is CONFIG itself, any other name is CONFIG-NAME.py',
    )
    parser.add_argument(
        '--fractions',
        nargs='+',
        type=float,
        default=[0.1, 0.2, 0.3, 0.4],
        help='shares of the images that keep their labels',
    )
    parser.add_argument(
        '--seeds', nargs='+', type=int, default=[0, 1, 2], help='seed of the run and of the choice of labels'
    )
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time')
    parser.add_argument('--out', default='work_dirs/semi_supervised', help='folder for runs and figure')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=OPTIONS_HELP)
    args = parser.parse_args(argv)
    out = Path(args.out)
    runs = [
        Run(
            label=variant,
            seed=seed,
            x=fraction,
            work_dir=out / f'{variant}_{fraction:g}_{seed}',
            config=args.config if variant == 'cds' else f'{args.config.removesuffix(".py")}-{variant}.py',
            options=(
                f'train_dataloader.dataset.fraction={fraction}',
                f'train_dataloader.dataset.seed={seed}',
                *args.cfg_options,
            ),
        )
        for fraction in args.fractions
        for seed in args.seeds
        for variant in args.variants
    ]
    records = execute(runs, args.jobs)
    summary = summarise(records)
    print('labels   ' + ''.join(f'{variant:>22}' for variant in args.variants))
    for fraction in args.fractions:
        cells = [summary[variant, fraction] for variant in args.variants]
        print(
            f'{fraction:>6.0%}   '
            + ''.join(f'{f"{mean:.2f} ± {spread:.2f} (n={n})":>22}' for mean, spread, n in cells)
        )
    draw(records, out / 'figure2.png')
    print(out / 'figure2.png')
    return records


if __name__ == '__main__':
    run_tool(main)
