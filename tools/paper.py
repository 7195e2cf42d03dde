#!/usr/bin/env python
"""The paper's tables: list, show, run and compare their cells.

python tools/paper.py list                               all tables
python tools/paper.py list table3                        its cells, the paper's numbers, and what this build runs
python tools/paper.py show table1/resnet18_cifar100/cds  the whole config of a cell, as run trains it with seed 0
python tools/paper.py run table1 --scale mini --seeds 0 1 2 --jobs 2
python tools/paper.py collect table1 --scale mini        Markdown, CSV and plot, from what has ended
python tools/paper.py report                             all tables and figures on one page, a single HTML file
python tools/paper.py claims                             what the paper says of its numbers, and what they give

Runs that have ended are not repeated and stopped ones go on, so a command can be stopped, and given again with more
seeds or cells. Cells of equal configs, such as plain training in Tables 1 and 8, are trained once: the folder of the
second is a link to that of the first. A folder whose run has another config is refused.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

import os
import re
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from mmengine.config import Config

from mmcds.cli.check_config import check_options
from mmcds.cli.launch import OPTIONS_HELP, Options, merge_options, positive, print_table, run_tool, seed_number
from mmcds.core.errors import ConfigError
from mmcds.evaluation.sweep import RESULT, Run, execute
from mmcds.openmmlab.work_dir import named_checkpoint
from mmcds.paper import METHODS, NETWORKS, TABLES, Cell, cell, cells, collect, compose, why_not, write_report
from mmcds.paper.batch import Batch, divide_batch, usual_processes
from mmcds.paper.claims import REMARKS, claims
from mmcds.paper.compose import FORMS, MINI_EPOCHS, MINI_IMAGES, PRESETS, finetuned, has_form, seed_options
from mmcds.paper.page import write_page
from mmcds.paper.report import run_folder, to_texts
from mmcds.paper.tables import SMALL_SCALES

#: What the presets are about, but the first, and the ends of their folders.
PRESET_TITLES = {'paper': "CDS as the paper's text says", 'tuned': 'CDS as docs/study.md recommends'}
PRESET_FOLDERS = {'paper': 'text', 'tuned': 'tuned'}
#: What the forms of networks are about, but the first.
FORM_TITLES = {
    'cifar100repo': 'CIFAR networks in the form of pytorch-cifar100',
    'released': "ImageNet's ResNets without max pooling",
}


def list_cells(args: Namespace) -> None:
    """Print all tables, or the cells of one."""
    if args.table is None:
        rows = []
        for name, (title, found) in TABLES.items():
            known = sum(len(each.paper) for each in found)
            runs = sum(not why_not(each) for each in found)
            rows.append((name, title, str(len(found)), str(runs), str(known)))
        print_table('the paper', ('table', 'what', 'cells', 'run by this build', 'numbers of the paper'), rows)
        return
    rows = [
        (
            each.name,
            NETWORKS[each.network].title,
            METHODS[each.method].title,
            ' / '.join(f'{value:g}' for value in each.paper.values()),
            each.source,
            (why_not(each) and f'no: {why_not(each)}') or 'yes',
        )
        for each in cells(args.table, args.scale)
    ]
    print_table(TABLES[args.table][0], ('cell', 'network', 'method', 'paper', 'source', 'runs'), rows)


def print_claims() -> None:
    """Print the paper's statements about its own numbers beside what the numbers give."""
    rows = [
        (each.where, each.text, each.stated, f'{each.computed:.3f}', '' if each.agrees else 'differs', each.note)
        for each in claims()
    ]
    print_table('the paper on its own numbers', ('where', 'statement', 'stated', 'computed', '', 'note'), rows)
    for remark in REMARKS:
        print(remark)


def chosen(names: Sequence[str], args: Namespace) -> list[Cell]:
    """Cells by name, all cells of a table, or ``all``.

    Raises:
        ConfigError: If ``--networks`` changes none of them.
    """
    names = [each for name in names for each in (TABLES if name == 'all' else [name])]
    found = [each for name in names for each in ([cell(name, args.scale)] if '/' in name else cells(name, args.scale))]
    if args.networks != 'library' and not any(has_form(each, args.networks) for each in found):
        raise ConfigError(
            f'--networks {args.networks} changes nothing in {", ".join(names)}: '
            f'it is about {FORM_TITLES[args.networks]}. Leave it out.'
        )
    return list({each.name: each for each in found}.values())


def whole_config(each: Cell, seed: int, args: Namespace) -> tuple[Config, Batch]:
    """Compose what is trained for a cell and seed, with the files of what is trained first, and divide its batch."""
    config = compose(each, args.preset, args.networks)
    if each.teacher is not None:
        config.model.teacher.config = str(trained(args.out, each.teacher, seed) / 'cell.py')
        config.model.teacher.checkpoint = last_checkpoint(each.teacher, seed, args)
    if each.start is not None:
        checkpoint = last_checkpoint(each.start, seed, args)
        if finetuned(each):
            config.model.backbone.init_cfg.checkpoint = checkpoint
        else:
            config.load_from = checkpoint
    check_options(config, args.cfg_options)
    merge_options(config, {**seed_options(METHODS[each.method], seed), **args.cfg_options})
    return config, share_batch(each, config, args)


def share_batch(each: Cell, config: Config, args: Namespace) -> Batch:
    """Divide the batch of a cell over the GPUs, or ask for another learning rate if ``--auto-scale-lr`` is given."""
    processes = usual_processes(config, len(visible_devices())) if args.gpus is None else args.gpus
    if not args.auto_scale_lr:
        return divide_batch(config, processes, each.name)
    config.auto_scale_lr.enable = True
    return Batch(processes, config.train_dataloader.batch_size, config.optim_wrapper.get('accumulative_counts', 1))


def visible_devices() -> list[str]:
    """Return the GPUs that this process may use, as in ``CUDA_VISIBLE_DEVICES``."""
    devices = [str(number) for number in range(torch.cuda.device_count())]
    if os.environ.get('CUDA_VISIBLE_DEVICES'):
        devices = os.environ['CUDA_VISIBLE_DEVICES'].split(',')[: len(devices)]
    return devices


def prepare(each: Cell, seed: int, args: Namespace) -> Run:
    """Describe a run, and write its config into its folder."""
    config, batch = whole_config(each, seed, args)
    settle(run_folder(args.out, each, seed), config.pretty_text, Path(args.out))
    folder = trained(args.out, each, seed)
    return Run(
        label=str(folder.parent.relative_to(args.out)),
        config=str(folder / 'cell.py'),
        seed=seed,
        work_dir=folder,
        validated=config.get('val_cfg') is not None,
        processes=batch.processes,
    )


def settle(folder: Path, text: str, out: Path) -> None:
    """Write the config of a run into its folder, or link the folder to that of an equal run under ``out``.

    ``cell.txt`` keeps what was asked for; ``cell.py`` is what is trained, and MMEngine writes it anew.

    Raises:
        ConfigError: If the folder holds a run with another config.
    """
    asked = folder / 'cell.txt'
    if asked.is_file():
        before, now = asked.read_text().splitlines(), text.splitlines()
        if before != now:
            old, new = next(pair for pair in zip_longest(before, now, fillvalue='') if pair[0] != pair[1])
            raise ConfigError(
                f'{folder} holds a run with another config: it has {old.strip()!r} where {new.strip()!r} is asked '
                'for. Give the settings of that run, choose another --out folder, or delete this one.'
            )
        return
    if folder.is_symlink():  # to a run that was deleted since
        folder.unlink()
    twins = (path for path in sorted(out.glob(f'*/*/*/{folder.name}/{asked.name}')) if path.read_text() == text)
    twin = next(twins, None)
    if twin is None or folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'cell.py').write_text(text)
        asked.write_text(text)
        return
    owner = twin.parent.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(os.path.relpath(owner, folder.parent.resolve()), target_is_directory=True)
    print(f'{folder} is the same training as {owner.relative_to(out.resolve())}: it is trained once')


def trained(out: str, each: Cell, seed: int) -> Path:
    """Folder of a run of a cell, that of its twin if it is a link."""
    return Path(out) / run_folder(out, each, seed).resolve().relative_to(Path(out).resolve())


def last_checkpoint(each: Cell, seed: int, args: Namespace) -> str:
    """Checkpoint at the end of a run of a cell; of a run that has not ended, the one that it will leave."""
    folder = trained(args.out, each, seed)
    return str(folder / (Path(named_checkpoint(folder)).name or last_name(each, args)))


def last_name(each: Cell, args: Namespace) -> str:
    """Name of the checkpoint after the last epoch of a cell."""
    config = compose(each, args.preset, args.networks)
    config.merge_from_dict(args.cfg_options)
    return f'epoch_{config.train_cfg.max_epochs}.pth'


def run_cells(args: Namespace) -> list[dict]:
    """Train what this build runs and has not been trained, teachers and starts first; then print the tables.

    Raises:
        ConfigError: If a cell is unknown or cannot be trained so, or if there are not as many GPUs as asked for; a
            machine without any starts processes on its CPU.
    """
    visible = len(visible_devices())
    if args.gpus and 0 < visible < args.gpus and not args.dry_run:
        raise ConfigError(f'--gpus {args.gpus}: {visible} GPU(s) are visible. Take --gpus {visible} or leave it out.')
    wanted = chosen(args.cells, args)
    skipped = [each for each in wanted if why_not(each)]
    wanted = [each for each in wanted if not why_not(each)]
    for each in skipped:
        print(f'not run: {each.name}: {why_not(each)}')
    if not wanted:
        raise ConfigError(f'none of {", ".join(args.cells)} is run by this build. See `tools/paper.py list TABLE`.')
    steps: dict[int, dict[str, Cell]] = {}  # cells by the number of cells that have to be trained before
    for each in (other for found in wanted for other in (*found.first, found)):
        steps.setdefault(len(each.first), {})[each.name] = each
    # all cells are composed once before the first one trains, so that what cannot be trained is refused now
    plan = [
        (each, *whole_config(each, args.seeds[0], args)) for _, step in sorted(steps.items()) for each in step.values()
    ]
    if args.dry_run:
        print_plan(plan, args)
        return []
    devices, records = visible_devices(), []
    for _, found in sorted(steps.items()):
        runs = dict.fromkeys(prepare(each, seed, args) for seed in args.seeds for each in found.values())
        for number in sorted({run.processes for run in runs}):
            groups = [','.join(devices[start : start + number]) for start in range(0, len(devices), number)]
            groups = groups[: max(1, len(devices) // number)]
            together = [run for run in runs if run.processes == number]
            records += execute(together, args.jobs or max(1, len(groups)), groups)
    for table in dict.fromkeys(each.table for each in wanted):
        show_results(table, [each for each in wanted if each.table == table], args)
    return records


def trained_on(found: Sequence[Cell], out: str) -> str:
    """Return images and epochs of the runs of a table at mini scale, from what was asked for in their folders."""
    texts = [path.read_text() for each in found for path in Path(out, each.name).glob('seed_*/cell.txt')]

    def values(key: str, default: int) -> str:
        numbers = {int(number) for text in texts for number in re.findall(rf'\b{key}=(\d+)', text)[:1]}
        return ' or '.join(f'{number:,}' for number in sorted(numbers or {default}))

    if found[0].dataset == 'emoji':
        return f'1,973 emoji in 58 classes, {values("max_epochs", 50)} epochs'
    return f'{values("indices", MINI_IMAGES)} Fashion-MNIST images, {values("max_epochs", MINI_EPOCHS)} epochs'


def print_plan(plan: Sequence[tuple[Cell, Config, Batch]], args: Namespace) -> None:
    """Print what would be trained, in order, and what has ended already."""
    rows = []
    for each, config, batch in plan:
        runs = [run_folder(args.out, each, seed) for seed in args.seeds]
        ended = sum((folder / RESULT).is_file() for folder in runs)
        backbone = config.model.get('backbone') or {}
        supervisions = (config.model.get('supervisions') or {}).items()
        rows.append(
            (
                each.name,
                f'{backbone.get("type")} {backbone.get("depth", "")}'.strip(),
                str(batch),
                str(config.train_cfg.max_epochs),
                f'{config.optim_wrapper.optimizer.lr:g}',
                ', '.join(f'{name} {list(own.get("taps", ()))}' for name, own in supervisions if own),
                '; '.join(other.name for other in (each.start, each.teacher) if other is not None),
                f'{ended} of {len(runs)}',
            )
        )
    print_table(
        'what would be trained',
        ('cell', 'network', 'processes x images x accumulated', 'epochs', 'lr', 'heads', 'first', 'ended'),
        rows,
    )


def title_of(table: str, found: Sequence[Cell], args: Namespace) -> str:
    """Return the title of a table with our results: what was trained, and in which form."""
    title = f'{table}: {TABLES[table][0]}'
    if args.scale != 'paper':
        title = f'{title}, at {args.scale} scale: {trained_on(found, args.out)}'
    if args.preset in PRESET_TITLES:
        title = f'{title}, {PRESET_TITLES[args.preset]}'
    if args.networks != 'library':
        title = f'{title}, {FORM_TITLES[args.networks]}'
    return title


def remarks_on(table: str, args: Namespace) -> list[str]:
    """Return where the paper's statements about a table differ from its numbers."""
    return [str(each) for each in claims() if each.table == table and not each.agrees and args.scale == 'paper']


def show_results(table: str, found: Sequence[Cell], args: Namespace) -> None:
    """Print a table with our results and write it."""
    title, rows, remarks = title_of(table, found, args), collect(found, args.out), remarks_on(table, args)
    print_table(title, *to_texts(rows))
    for remark in remarks:
        print(remark)
    for path in write_report(title, rows, args.write or args.out, table, remarks):
        print(path)


def report(args: Namespace) -> None:
    """Write all tables and figures on one page."""
    by_table: dict[str, list[Cell]] = {}
    for each in chosen(args.cells, args):
        by_table.setdefault(each.table, []).append(each)
    tables = {table: (title_of(table, found, args), collect(found, args.out)) for table, found in by_table.items()}
    remarks = {table: remarks_on(table, args) for table in tables}
    title = f'Contrastive Deep Supervision: the paper and our runs, {args.scale} scale'
    print(write_page(title, tables, remarks, args.write or Path(args.out, 'report.html'), args.out))


def main(argv: list[str] | None = None) -> None:
    """Do what the command says."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    common = ArgumentParser(add_help=False)
    common.add_argument(
        '--scale',
        choices=('paper', *SMALL_SCALES),
        default='paper',
        help='mini: ResNet-10 of 16 channels, 1,000 embedded images, 100 epochs; mini-colour: the same on 1,973 '
        'emoji, 50 epochs, without teachers; not a reproduction',
    )
    common.add_argument('--data-root', help='folder that holds the data sets (default: $MMCDS_DATA_ROOT or data)')
    common.add_argument(
        '--out',
        help='folder for the runs (default: work_dirs/paper/SCALE, with -text or -tuned by --preset)',
    )
    common.add_argument('--write', help='folder for tables and plots, file for the page (default: beside the runs)')
    trainings = ArgumentParser(add_help=False, parents=[common])
    trainings.add_argument(
        '--preset',
        choices=PRESETS,
        default='official',
        help="CDS as the released code does it; as the paper's text says: K - 1 heads that end in a projection; or as "
        'docs/study.md recommends: cross-entropy on both views',
    )
    trainings.add_argument(
        '--networks',
        choices=FORMS,
        default='library',
        help='form of the networks: those of torchvision and timm; for CIFAR those of the code base that its papers '
        'commonly use; for ImageNet ResNets without max pooling, as the released code runs them (3.8 times the work)',
    )
    listing = commands.add_parser('list', parents=[common], help='all tables, or the cells of one')
    listing.add_argument('table', nargs='?', help='such as table1')
    showing = commands.add_parser('show', parents=[trainings], help='the whole config of a cell')
    showing.add_argument('cell', help='such as table1/resnet18_cifar100/cds')
    running = commands.add_parser('run', parents=[trainings], help='train cells or tables, several seeds each')
    running.add_argument('cells', nargs='+', metavar='CELL', help="cell or table, or 'all'")
    running.add_argument(
        '--seeds', nargs='+', type=seed_number, default=[0, 1, 2], help='one run per seed (default: 0 1 2)'
    )
    running.add_argument(
        '--jobs', type=positive, help='trainings at a time (default: as many as the visible GPUs hold, or 1)'
    )
    running.add_argument('--dry-run', action='store_true', help='print what would be trained, and train nothing')
    for command in (showing, running):
        command.add_argument(
            '--gpus',
            type=int,
            help='GPUs of one training, or processes on a machine without (default: as many visible ones as its batch '
            'can be divided over); the batch stays that of the learning rate, by gradient accumulation where it must',
        )
        command.add_argument(
            '--auto-scale-lr',
            action='store_true',
            help='keep the images of a process as the config has them, and scale the learning rate to the batch',
        )
        command.add_argument(
            '--cfg-options', nargs='+', action=Options, default={}, metavar='KEY=VALUE', help=OPTIONS_HELP
        )
    gathering = commands.add_parser('collect', parents=[trainings], help='compare what has ended with the paper')
    gathering.add_argument('cells', nargs='+', metavar='CELL', help='cell or table')
    reporting = commands.add_parser('report', parents=[trainings], help='all of it on one page, a single HTML file')
    reporting.add_argument('cells', nargs='*', default=['all'], metavar='CELL', help='cell or table (default: all)')
    commands.add_parser('claims', parents=[common], help="the paper's statements about its numbers, computed")
    args = parser.parse_args(argv)
    kind = [args.scale]
    if 'preset' in args:
        kind += [PRESET_FOLDERS[args.preset]] if args.preset in PRESET_FOLDERS else []
        kind += [args.networks] * (args.networks != 'library')
    args.out = args.out or str(Path('work_dirs', 'paper', '-'.join(kind)))
    if args.data_root is not None:
        os.environ['MMCDS_DATA_ROOT'] = args.data_root
    if args.command == 'list':
        list_cells(args)
    elif args.command == 'claims':
        print_claims()
    elif args.command == 'show':
        print(whole_config(chosen([args.cell], args)[0], 0, args)[0].pretty_text)
    elif args.command == 'run':
        run_cells(args)
    elif args.command == 'report':
        report(args)
    else:
        found = chosen(args.cells, args)
        for table in dict.fromkeys(each.table for each in found):
            show_results(table, [each for each in found if each.table == table], args)


if __name__ == '__main__':
    run_tool(main)
