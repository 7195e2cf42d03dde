#!/usr/bin/env python
"""What the stages of trained networks know: python tools/probe.py CONFIG CHECKPOINT [CONFIG CHECKPOINT ...].

Every stage's features, averaged over the map, are measured by a linear probe, the nearest neighbours, alignment,
uniformity, and by how alike the stages of two networks are (CKA); docs/inside.md says what each of them is. All
networks see the same images, those of the first config. Networks of the same name, such as several seeds, give a mean
and a spread.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import csv
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import set_random_seed
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.cli.launch import (
    OPTIONS_HELP,
    Options,
    add_trust_argument,
    check_data_root,
    check_has_test,
    load_config,
    output_folder,
    run_tool,
    seed_number,
    set_loader_defaults,
)
from mmcds.core.errors import ConfigError
from mmcds.core.taps import Tap, tap_name
from mmcds.evaluation import cka_matrix, fit_linear_probe, knn_accuracy, pooled_features
from mmcds.evaluation.curves import MARKERS, legend_below
from mmcds.evaluation.summary import markdown_table, mean_spread, plain, spread_text
from mmcds.losses import alignment, uniformity
from mmcds.openmmlab.backbone import build_backbone
from mmcds.openmmlab.checkpoint import load_model, read_weights
from mmcds.openmmlab.runner import Runner, inner_dataset
from mmcds.openmmlab.zoo import find

#: Key, title, digits and what is better of the measures of one network.
MEASURES = {
    'probe': ('linear probe (%)', 2, 'higher is better'),
    'knn': ('nearest neighbours (%)', 2, 'higher is better'),
    'alignment': ('alignment', 3, 'lower is better: views are closer'),
    'uniformity': ('uniformity', 3, 'lower is better: images are spread'),
}


@dataclass
class Network:
    """One trained network, and its features of the images by tap.

    Attributes:
        name: Networks of the same name are repetitions.
        checkpoint: Its file.
        model: The classifier without supervisions and teacher, in evaluation mode.
        taps: Where its features are taken.
        train: Of the training images, (N, C).
        test: Of the test images, (M, C).
        pairs: Of the views of the training images, (V, N, C).
        values: Every measure of :data:`MEASURES` by tap.
    """

    name: str
    checkpoint: str
    model: nn.Module
    taps: tuple[Tap, ...]
    train: dict[Tap, Tensor]
    test: dict[Tap, Tensor]
    pairs: dict[Tap, Tensor]
    values: dict[Tap, dict[str, float]]


def stages(backbone: dict) -> tuple[Tap, ...]:
    """All stages of a backbone where it says how many it has, otherwise those that it puts out anyway."""
    built = MODELS.build(backbone)
    count = getattr(built, 'num_stages', getattr(built, 'num_layers', None))
    return tuple(built.out_indices) if count is None else tuple(range(count))


def load_network(name: str, config: Config, checkpoint: str, taps: Sequence[Tap]) -> Network:
    """Build a network as its config says and fill it.

    Raises:
        ConfigError: If the checkpoint does not exist or is of another architecture.
    """
    wanted = tuple(taps) or stages(config.model.backbone)
    model = load_model(config, read_weights(checkpoint), checkpoint, build_backbone(config.model.backbone, wanted))
    return Network(name, checkpoint, model, wanted, {}, {}, {}, {})


def num_views(config: Config) -> int:
    """Views of an image in training."""
    steps = inner_dataset(config.train_dataloader.dataset)['pipeline']
    return max(len(step.get('views', ())) or 1 for step in steps)


def build_loader(settings: dict, dataset: dict, count: int, seed: int) -> Iterable[dict]:
    """Loader of at most ``count`` images, evenly spread over the data set, in its order."""
    images = DATASETS.build(dataset)
    if len(images) > count:
        images = images.get_subset(np.linspace(0, len(images) - 1, count).round().astype(int).tolist())
    loader = {key: value for key, value in settings.items() if key != 'batch_sampler'}
    loader.update(dataset=images, sampler=dict(type='DefaultSampler', shuffle=False), drop_last=False)
    return Runner.build_dataloader(loader, seed=seed)


def extract(networks: Sequence[Network], configs: Sequence[Config], args: Namespace) -> tuple[Tensor, Tensor]:
    """Fill in the features of all networks; return the classes of training and test images."""
    models, taps = [network.model for network in networks], [network.taps for network in networks]
    tests, trains = configs[0].test_dataloader, inner_dataset(configs[0].train_dataloader.dataset)
    test_set = inner_dataset(tests.dataset)
    plain = {**trains, 'pipeline': test_set['pipeline']}
    several = next((config for config in configs if num_views(config) > 1), configs[0])
    views = {**trains, 'pipeline': inner_dataset(several.train_dataloader.dataset)['pipeline']}
    features, labels = [], []
    for dataset in (plain, test_set):
        found, classes = pooled_features(models, taps, build_loader(tests, dataset, args.images, args.seed))
        features.append(found)
        labels.append(classes)
    set_random_seed(args.seed)
    settings = {**several.train_dataloader, 'batch_size': tests.batch_size}
    loader = build_loader(settings, views, args.images, args.seed)
    draws = [pooled_features(models, taps, loader)[0] for _ in range(1 if num_views(several) > 1 else 2)]
    for number, network in enumerate(networks):
        network.train, network.test = ({tap: f[0] for tap, f in found[number].items()} for found in features)
        network.pairs = {tap: torch.cat([draw[number][tap] for draw in draws]) for tap in network.taps}
    return labels[0], labels[1]


def measure(network: Network, train_labels: Tensor, test_labels: Tensor, args: Namespace) -> None:
    """Fill in every measure of one network."""
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    for tap in network.taps:
        train, test = network.train[tap], network.test[tap]
        pairs, rows = (F.normalize(feature.double(), dim=-1) for feature in (network.pairs[tap], test[None]))
        network.values[tap] = dict(
            probe=fit_linear_probe(train, train_labels, classes, args.l2).accuracy(test, test_labels),
            knn=knn_accuracy(train, train_labels, test, test_labels, args.neighbours),
            alignment=float(alignment(pairs)),
            uniformity=float(uniformity(rows)),
        )


def similarities(networks: Sequence[Network]) -> dict[tuple[str, str], tuple[Tensor, int]]:
    """CKA of all stages of all pairs of names: mean over the pairs of networks, and the number of these.

    Networks of one name are compared with each other; where there is but one, with itself, which counts 0 pairs.
    """
    found = {}
    for first, second in combinations_with_replacement(groups(networks).items(), 2):
        pairs = [(a, b) for a in first[1] for b in second[1] if a is not b] or [(first[1][0], second[1][0])]
        values = [cka_matrix([a.test[tap] for tap in a.taps], [b.test[tap] for tap in b.taps]) for a, b in pairs]
        same = first == second  # then every pair was taken in both orders, so that the mean is symmetric
        found[first[0], second[0]] = torch.stack(values).mean(0), len(pairs) // 2 if same else len(pairs)
    return found


def groups(networks: Sequence[Network]) -> dict[str, list[Network]]:
    """Networks by name.

    Raises:
        ConfigError: If networks of one name are tapped at different places.
    """
    found: dict[str, list[Network]] = {}
    for network in networks:
        found.setdefault(network.name, []).append(network)
    for name, same in found.items():
        if len({network.taps for network in same}) > 1:
            raise ConfigError(
                f'{name}: networks of one name must have the same stages, got '
                f'{" and ".join(sorted({str(network.taps) for network in same}))}. Give them other --names.'
            )
    return found


def table_rows(networks: Sequence[Network]) -> list[tuple[str, ...]]:
    """One row per name and tap: number of networks and all measures."""
    rows = []
    for name, same in groups(networks).items():
        for tap in same[0].taps:
            texts = []
            for key, (_, digits, _) in MEASURES.items():
                texts.append(spread_text([network.values[tap][key] for network in same], digits))
            rows.append((name, tap_name(tap), str(len(same)), *texts))
    return rows


def draw_measures(networks: Sequence[Network], out: Path) -> None:
    """One panel per measure, one line per name through the means by depth, with bars of one standard deviation."""
    named = groups(networks)
    figure = Figure(figsize=(9, 7), layout='constrained')
    panels = figure.subplots(2, 2, sharex=True).flat
    shifts = np.linspace(-0.1, 0.1, len(named)) if len(named) > 1 else [0]  # so that bars stand beside each other
    for (key, (title, _, better)), axes in zip(MEASURES.items(), panels, strict=True):
        for number, (name, same) in enumerate(named.items()):
            values = [mean_spread([network.values[tap][key] for network in same]) for tap in same[0].taps]
            mean, spread = np.array(values).T
            axes.errorbar(
                np.arange(len(mean)) + shifts[number],
                mean,
                spread if len(same) > 1 else None,
                capsize=3,
                linewidth=1.2,
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                label=plain(f'{name} (n={len(same)})'),
            )
        deepest = max(networks, key=lambda network: len(network.taps)).taps
        axes.set_xticks(range(len(deepest)), [tap_name(tap) for tap in deepest])
        axes.set_title(title, fontsize='medium')
        axes.set_ylabel(f'{"↑" if better.startswith("higher") else "↓"} {better}', fontsize='small')
        axes.grid(alpha=0.3)
    legend_below(figure, axes.containers, 'mean ± sample standard deviation of n networks')
    figure.savefig(out, dpi=150)


def draw_similarities(networks: Sequence[Network], found: dict, out: Path) -> None:
    """One matrix per pair of names, above the diagonal of the names."""
    named = groups(networks)
    size = 1.2 + 0.45 * max(len(network.taps) for network in networks)
    figure = Figure(figsize=(size * len(named) + 0.8, size * len(named)), layout='constrained')
    panels = figure.subplots(len(named), len(named), squeeze=False)
    for row, first in enumerate(named):
        for column, second in enumerate(named):
            axes = panels[row, column]
            if column < row:
                axes.axis('off')
                continue
            matrix, count = found[first, second]
            image = axes.imshow(matrix.numpy(), vmin=0, vmax=1, cmap='viridis')
            for i, j in np.ndindex(*matrix.shape):
                light = 'black' if matrix[i, j] > 0.6 else 'white'
                axes.text(j, i, f'{matrix[i, j]:.2f}', ha='center', va='center', fontsize=7, color=light)
            ticks = [[tap_name(tap) for tap in named[name][0].taps] for name in (second, first)]
            axes.set_xticks(range(len(ticks[0])), ticks[0], rotation=45, ha='right', fontsize=7)
            axes.set_yticks(range(len(ticks[1])), ticks[1], fontsize=7)
            axes.set_xlabel(plain(second), fontsize='small')
            axes.set_ylabel(plain(first), fontsize='small')
            axes.set_title(f'mean of {count} pairs' if count > 1 else '' if count else 'itself', fontsize=7)
    figure.colorbar(image, ax=panels, shrink=0.6, label='CKA (1: alike, 0: independent)')
    figure.savefig(out, dpi=150)


def write(networks: Sequence[Network], found: dict, args: Namespace) -> list[Path]:
    """Write ``probe.md``, ``probe.csv``, ``cka.csv``, ``probe.png`` and ``cka.png``."""
    out = Path(args.out)
    header = ('network', 'stage', 'n', *(title for title, *_ in MEASURES.values()))
    (out / 'probe.md').write_text(markdown_table(header, table_rows(networks)) + '\n')
    with (out / 'probe.csv').open('w', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow(['network', 'checkpoint', 'stage', *MEASURES])
        for network in networks:
            for tap, values in network.values.items():
                numbers = [f'{values[key]:.{digits + 2}f}' for key, (_, digits, _) in MEASURES.items()]
                writer.writerow([network.name, network.checkpoint, tap_name(tap), *numbers])
    named = groups(networks)
    with (out / 'cka.csv').open('w', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow(['first', 'stage', 'second', 'stage', 'cka', 'pairs'])
        for (first, second), (matrix, count) in found.items():
            for own, row in zip(named[first][0].taps, matrix.tolist(), strict=True):
                for other, value in zip(named[second][0].taps, row, strict=True):
                    writer.writerow([first, tap_name(own), second, tap_name(other), f'{value:.4f}', count])
    draw_measures(networks, out / 'probe.png')
    draw_similarities(networks, found, out / 'cka.png')
    return [out / name for name in ('probe.md', 'probe.csv', 'cka.csv', 'probe.png', 'cka.png')]


def parse_args(argv: list[str] | None = None) -> Namespace:
    """Parse the command line.

    Raises:
        ConfigError: If a config lacks its checkpoint, a network its name, or a number is too small.
    """
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument(
        'networks', nargs='+', metavar='CONFIG CHECKPOINT', help='config and checkpoint of every network, in turn'
    )
    parser.add_argument('--names', nargs='+', help='a name for each; equal ones are averaged (default: the configs)')
    parser.add_argument(
        '--taps',
        nargs='+',
        default=[],
        metavar='TAP',
        help='stage numbers or module names of the backbones (default: all stages)',
    )
    parser.add_argument('--images', type=int, default=5000, help='training and test images at most (default: 5000)')
    parser.add_argument('--neighbours', type=int, default=20, help='neighbours that vote (default: 20)')
    parser.add_argument('--l2', type=float, default=1e-3, help='penalty of the linear probe (default: 0.001)')
    parser.add_argument('--seed', type=seed_number, default=0, help='seed of the pairs of views (default: 0)')
    parser.add_argument('--out', type=output_folder, default='work_dirs/probe', help='folder for tables and plots')
    parser.add_argument('--data-root', help='folder that holds the data sets (default: $MMCDS_DATA_ROOT or data)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help=OPTIONS_HELP)
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    count = len(args.networks) // 2
    if len(args.networks) % 2:
        raise ConfigError(
            f'{len(args.networks)} files were named; give CONFIG CHECKPOINT for every network, in this order.'
        )
    args.names = args.names or [Path(config.split('::')[-1]).stem for config in args.networks[::2]]
    if len(args.names) != count:
        raise ConfigError(f'--names has {len(args.names)} name(s) for {count} network(s). Give one for each.')
    if args.images < 4 or args.neighbours < 1 or not args.l2 > 0:
        raise ConfigError(
            f'--images is {args.images}, --neighbours {args.neighbours} and --l2 {args.l2}; at least 4, at least 1 '
            'and a positive number are needed.'
        )
    args.taps = [int(tap) if tap.isdigit() else tap for tap in args.taps]
    return args


def main(argv: list[str] | None = None) -> list[Network]:
    """Measure all networks, print the table, write the files; return the networks."""
    args = parse_args(argv)
    if args.data_root is not None:
        os.environ['MMCDS_DATA_ROOT'] = args.data_root
    common = dict(data_root=None, work_dir=None, launcher='none', local_rank=0, cfg_options=args.cfg_options)
    configs = [load_config(Namespace(config=file, **common)) for file in args.networks[::2]]
    for config in configs:
        set_loader_defaults(config)
    check_has_test(configs[0])
    check_data_root(configs[0], ('train_dataloader', 'test_dataloader'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        import mmpretrain.utils

        mmpretrain.utils.register_all_modules(init_default_scope=False)
        networks = [
            load_network(name, config, find(file), args.taps)
            for name, config, file in zip(args.names, configs, args.networks[1::2], strict=True)
        ]
        groups(networks)  # before the work
        labels = extract(networks, configs, args)
    for network in networks:
        measure(network, *labels, args)
    found = similarities(networks)
    table = Table('network', 'stage', 'n', *(title for title, *_ in MEASURES.values()))
    for row in table_rows(networks):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)
    for path in write(networks, found, args):
        print(path)
    return networks


if __name__ == '__main__':
    run_tool(main)
