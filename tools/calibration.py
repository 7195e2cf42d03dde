#!/usr/bin/env python
"""Figure 5 of the paper: how far the confidence of models is from their accuracy.

python tools/calibration.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...] --names plain cds --out calibration
python tools/calibration.py ... --temperature-scaling

Every model runs over its test set. OUT gets calibration.md, calibration.csv and a reliability diagram per run. Models
of the same name are repetitions, such as seeds: their mean and sample standard deviation are reported.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import csv
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path

import mmengine
from mmengine.registry import DefaultScope
from torch import Tensor

from mmcds.cli.launch import (
    OPTIONS_HELP,
    Options,
    add_trust_argument,
    load_config,
    output_folder,
    prepare_testing,
    print_table,
    run_tool,
)
from mmcds.core.errors import ConfigError
from mmcds.evaluation.calibration import COLUMNS, calibration, check_bins, stack_predictions, top_class
from mmcds.evaluation.reliability import draw_reliability
from mmcds.evaluation.summary import markdown_table, spread_text
from mmcds.evaluation.temperature import fit_temperature, scale
from mmcds.openmmlab.runner import Runner

HEADER = ('model', 'runs', 'images', 'temperature', 'accuracy (%)', *(title for title, *_ in COLUMNS.values()))


@dataclass(frozen=True)
class Model:
    """A model to measure.

    Attributes:
        name: Models of the same name are repetitions.
        config: Its config.
        checkpoint: Its weights.
        label: Name that it alone has.
    """

    name: str
    config: str
    checkpoint: str
    label: str


def read_models(arguments: list[str], names: list[str] | None) -> list[Model]:
    """Pairs of config and checkpoint, each with its name; without names, with that of its config.

    Raises:
        ConfigError: If a config has no checkpoint, a model no name, or a name has a model twice.
    """
    pairs = list(zip(arguments[::2], arguments[1::2], strict=False))
    if len(arguments) % 2:
        raise ConfigError(f'{arguments[-1]} is without a checkpoint. Give CONFIG CHECKPOINT for every model.')
    names = names or [Path(config.split('::')[-1]).stem for config, _ in pairs]
    if len(names) != len(pairs):
        raise ConfigError(f'--names has {len(names)} names for {len(pairs)} models. Give one per model.')
    models: list[Model] = []
    for name, (config, checkpoint) in zip(names, pairs, strict=True):
        if Path(name).name != name:
            raise ConfigError(f'--names: {name!r} cannot be the name of a file. Leave out the slashes.')
        same = [model for model in models if model.name == name]
        if any(Path(model.checkpoint).resolve() == Path(checkpoint).resolve() for model in same):
            raise ConfigError(f'{checkpoint} was named twice for {name}. Name every run once.')
        label = f'{name}_{len(same)}' if names.count(name) > 1 else name
        models.append(Model(name, config, checkpoint, label))
    files = [f'{model.label}{end}' for model in models for end in ('', '-scaled')]
    twice = [file for file in files if files.count(file) > 1]
    if twice:
        raise ConfigError(f'--names: two models would be called {twice[0]}. Give other names.')
    return models


def predict(model: Model, args: Namespace) -> tuple[Tensor, Tensor]:
    """Run a model over its test set; return scores (N, K) and labels (N,)."""
    with tempfile.TemporaryDirectory() as folder:
        own = dict(config=model.config, work_dir=folder, launcher='none', local_rank=0)
        config = load_config(Namespace(**{**vars(args), **own}))
        prepare_testing(config, model.checkpoint)
        config.test_evaluator = dict(type='DumpResults', out_file_path=f'{folder}/predictions.pkl')
        config.log_level = 'WARNING'
        with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
            Runner.from_cfg(config).test()
        return stack_predictions(mmengine.load(f'{folder}/predictions.pkl'))


def measure(model: Model, args: Namespace) -> list[dict]:
    """One record for a model, or two: without and with its temperature, on images that did not set it."""
    scores, labels = predict(model, args)
    parts: list[tuple[float | None, Tensor]] = [(None, scores)]
    if args.temperature_scaling:
        temperature = fit_temperature(scores[::2], labels[::2])
        parts, labels = [(None, scores[1::2]), (temperature, scale(scores[1::2], temperature))], labels[1::2]
    records = []
    for temperature, part in parts:
        confidence, correct = top_class(part.double(), labels)
        found = calibration(part, labels, args.bins)
        label = model.label if temperature is None else f'{model.label}-scaled'
        title = model.label if temperature is None else f'{model.label}, temperature {temperature:.2f}'
        records.append(
            dict(
                model=model.name if temperature is None else f'{model.name}, scaled',
                config=model.config,
                checkpoint=model.checkpoint,
                images=len(labels),
                temperature=temperature,
                accuracy=correct.double().mean().item(),
                **found,
                diagram=draw_reliability(confidence, correct, args.bins, title, Path(args.out) / f'{label}.png'),
            )
        )
    return records


def rows_of(records: list[dict]) -> list[tuple[str, ...]]:
    """One row per name, in the order of :data:`HEADER`: mean, and spread where there are several runs."""
    rows = []
    for name in dict.fromkeys(record['model'] for record in records):
        own = [record for record in records if record['model'] == name]
        temperatures = [record['temperature'] for record in own if record['temperature'] is not None]
        columns = {'accuracy': ('', 100, 2), **COLUMNS}
        rows.append(
            (
                name,
                str(len(own)),
                ', '.join(dict.fromkeys(str(record['images']) for record in own)),
                spread_text(temperatures, 3) or '-',
                *(spread_text([f * record[key] for record in own], digits) for key, (_, f, digits) in columns.items()),
            )
        )
    return rows


def note(args: Namespace) -> str:
    """What the numbers mean."""
    text = f'{args.bins} bins; mean ± sample standard deviation over runs.'
    if args.temperature_scaling:
        text += (
            ' Images 1, 3, 5, ... of the test set gave the temperature (lowest NLL), images 2, 4, 6, ... all numbers '
            'of the table, scaled or not.'
        )
    return text


def main(argv: list[str] | None = None) -> list[dict]:
    """Measure, print, write; return one record per run, and one more per scaled run."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', metavar='CONFIG CHECKPOINT', help='pairs of config and checkpoint')
    parser.add_argument('--names', nargs='+', help='one per pair; the same for repetitions (default: of the config)')
    parser.add_argument(
        '--out', type=output_folder, default='work_dirs/calibration', help='folder for tables and diagrams'
    )
    parser.add_argument('--bins', type=int, default=15, help='number of bins (default: 15)')
    parser.add_argument(
        '--temperature-scaling',
        action='store_true',
        help='fit a temperature to every other test image, and report the other ones without and with it',
    )
    parser.add_argument('--data-root', help='folder that holds the data sets (default: $MMCDS_DATA_ROOT or data)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help=OPTIONS_HELP)
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    models = read_models(args.models, args.names)
    check_bins(args.bins)
    out = Path(args.out)
    records = [record for model in models for record in measure(model, args)]
    rows = rows_of(records)
    print_table('calibration', HEADER, rows)
    print(note(args))
    (out / 'calibration.md').write_text(f'{markdown_table(HEADER, rows)}\n\n{note(args)}\n', encoding='utf-8')
    with (out / 'calibration.csv').open('w', newline='') as stream:
        writer = csv.DictWriter(stream, list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    for path in (out / 'calibration.md', out / 'calibration.csv', *(record['diagram'] for record in records)):
        print(path)
    return records


if __name__ == '__main__':
    run_tool(main)
