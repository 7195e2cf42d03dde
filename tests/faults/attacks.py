#!/usr/bin/env python
"""Attack the tools with wrong configs, command lines, checkpoints and images, and count how they answer.

python tests/faults/attacks.py --configs 1000 --commands 300 --checkpoints 200 --images 60 --seed 0 --out attacks

What comes is drawn by the seed. An answer is one line that names the fault (``line``), success (``accepted``: read
OUT/accepted.txt for what was meaningless), a ``traceback``, or none within a minute (``hang``). The status is 1 if
there is a hang, or more than 2 % of a kind end in tracebacks.
"""

import math
import os
import random
import shutil
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from faults.forked import ROOT, run, start, wait

from mmcds.cli.check_config import KNOWN
from mmcds.paper import Cell, compose

SECONDS = 60
#: Share of the answers that may be tracebacks.
ALLOWED = 0.02


@dataclass
class Attack:
    """One call of a tool.

    Attributes:
        kind: ``'configs'``, ``'commands'``, ``'checkpoints'`` or ``'images'``.
        what: What is wrong, in words.
        tool: Name of the tool.
        arguments: Of its command line; OUT stands for a folder of this attack.
        prepare: Writes what is wrong before the call, given that folder.
    """

    kind: str
    what: str
    tool: str
    arguments: list[str]
    prepare: Callable[[Path], None] = field(default=lambda folder: None)


# ---------------------------------------------------------------------------------------------------------- configs

METHODS = ('plain', 'cds', 'dks', 'sskd', 'crd', 'semi_cds', 'cds_distill')
NAMES = ('CDSNeck', 'NTXentLoss', 'SupConLoss', 'CDSClassifier', 'ResNet_CIFAR', 'SGD', 'LinearClsHead', 'Nope', '')
VALUES = (
    None, 0, -1, 1, 3.5, -0.5, 1e30, math.nan, math.inf, 10**12, True, False, '', 'nope', '1', [], [0], [-1], (1, 2),
    {}, dict(type='Nope'), dict(nope=1),
)  # fmt: skip


def short_config(method: str, teacher: Path) -> dict:
    """Return the config of a training of two steps on embedded images."""
    config = compose(Cell('figure2' if method.startswith('semi') else 'attacks', 'mini', 'fashion', method))
    config.train_cfg.update(max_epochs=1, val_interval=1)
    for name in ('train', 'val', 'test'):
        loader = config[f'{name}_dataloader']
        loader.num_workers = 0
        if 'batch_sampler' in loader:
            loader.batch_size = 16
            loader.batch_sampler.update(num_unlabelled=8, epoch=2)
        else:
            loader.batch_size = 16
            loader.dataset.indices = 32
    if config.model.get('teacher'):
        config.model.teacher.update(config=str(teacher / 'config.py'), checkpoint=str(teacher / 'epoch_1.pth'))
    return {name: value for name, value in config.to_dict().items() if name in KNOWN}  # without its variables


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Return the paths of everything within a config."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def mutate(config: dict, draw: random.Random) -> tuple[dict, str]:
    """Change one thing of a config; return it and what was changed."""
    config = _lists(config)
    path = draw.choice([path for path in places(config) if path[0] not in ('custom_imports', 'env_cfg', 'log_level')])
    holder = config
    for key in path[:-1]:
        holder = holder[key]
    key, name = path[-1], '.'.join(map(str, path))
    old = holder[key]
    change = draw.choice(['value', 'value', 'value', 'value', 'drop', 'misspell', 'add', 'type', 'sign', 'repeat'])
    if change == 'drop':
        del holder[key]
        return config, f'without {name}'
    if change == 'misspell' and isinstance(key, str) and len(key) > 2:
        place = draw.randrange(len(key) - 1)
        wrong = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        holder[wrong] = holder.pop(key)
        return config, f'{name} as {wrong}'
    if change == 'add' and isinstance(old, dict):
        old['nope'] = 1
        return config, f'{name}.nope = 1'
    if change == 'type' and isinstance(old, dict) and 'type' in old:
        old['type'] = draw.choice(NAMES)
        return config, f'{name}.type = {old["type"]!r}'
    if change == 'sign' and isinstance(old, int | float) and not isinstance(old, bool):
        holder[key] = -old or -1
    elif change == 'repeat' and isinstance(old, list) and old:
        holder[key] = [*old, old[0]]
    else:
        holder[key] = draw.choice(VALUES)
    return config, f'{name}: {old!r:.60} -> {holder[key]!r:.60}'


def _lists(value: Any) -> Any:
    """Copy a config with lists in the place of tuples, so that all of it can be changed."""
    if isinstance(value, dict):
        return {key: _lists(inner) for key, inner in value.items()}
    return [_lists(inner) for inner in value] if isinstance(value, list | tuple) else value


def write(config: dict, file: Path) -> None:
    """Write a config, with numbers that are none."""
    file.write_text('\n'.join(f'{key} = {source(value)}' for key, value in config.items()) + '\n')


def source(value: Any) -> str:
    """Return a value as Python."""
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key!r}: {source(inner)}' for key, inner in value.items()) + '}'
    if isinstance(value, list | tuple):
        return '[' + ', '.join(map(source, value)) + ']'
    return f"float('{value}')" if isinstance(value, float) and not math.isfinite(value) else repr(value)


def config_attacks(draw: random.Random, given: Path) -> Iterator[Attack]:
    """Draw mutated configs for ever."""
    configs = {method: short_config(method, given) for method in METHODS}
    while True:
        method = draw.choice(METHODS)
        config, what = mutate(configs[method], draw)
        command = ['OUT/config.py', '--work-dir', 'OUT/run']
        yield Attack('configs', f'{method}: {what}', 'train', command, partial(_write_into, config))


def _write_into(config: dict, folder: Path) -> None:
    write(config, folder / 'config.py')


# ---------------------------------------------------------------------------------------------------- command lines

CONFIG, CHECKPOINT, RUN = 'GIVEN/config.py', 'GIVEN/epoch_1.pth', 'GIVEN'
#: A right command line of every tool.
COMMANDS = {
    'train': [CONFIG, '--work-dir', 'OUT/run', '--seed', '1'],
    'test': [CONFIG, CHECKPOINT, '--work-dir', 'OUT/run', '--out', 'OUT/test.json'],
    'calibration': [CONFIG, CHECKPOINT, '--names', 'a', '--out', 'OUT/calibration', '--bins', '5'],
    'probe': [CONFIG, CHECKPOINT, '--taps', '0', '--images', '16', '--neighbours', '2', '--l2', '1', '--out', 'OUT/p'],
    'browse_views': [CONFIG, '-n', '2', '--out', 'OUT/views.png', '--seed', '1'],
    'profile_step': [CONFIG, '--steps', '1', '--warmup', '1', '--json', 'OUT/step.json'],
    'draw_detections': [CONFIG, CHECKPOINT, '-n', '1', '--score', '0.5', '--out', 'OUT/boxes.png'],
    'export_backbone': [CHECKPOINT, 'OUT/backbone.pth', '--layout', 'openmmlab'],
    'paper': ['show', 'table1/resnet18_cifar100/cds'],
    'plot_curves': [RUN, '--metric', 'accuracy/top1', '--names', 'a', '--smooth', '2', '--out', 'OUT/curves.png'],
    'predict': [CHECKPOINT, 'GIVEN/image.png', '--top', '2', '--batch-size', '2', '--out', 'OUT/predicted.csv'],
    'make_fashion_scenes': ['--out', 'OUT/scenes', '--train', '1', '--test', '1', '--size', '64', '--seed', '1'],
    'compare_detection': [f'a={RUN}', '--out', 'OUT/compared.md', '--csv', 'OUT/compared.csv'],
    'check_data': ['fashion', '--show', '3'],
    'study': ['list', 'colour-58'],
}
WRONG = (
    '', ' ', '-1', '0', '1.5', 'nan', 'inf', '1e9', '99999999999999999999', 'nope', 'a=b', 'KEY', '--', 'mmcds::nope',
    'mmcds::cds/nope.py', 'paper::nope', 'paper::table1/nope/cds', 'nope::cds/x.py', 'OUT', 'OUT/no/such/file.png',
    'GIVEN/empty.py', 'GIVEN/syntax.py', 'GIVEN/image.png', 'GIVEN/binary.py', 'GIVEN/image.png/x', CONFIG, CHECKPOINT,
    'out.foo', '/proc/nope/out.png', 'ü\n', '*', '$\\frac{$', '../..',
)  # fmt: skip
EXTRA = (
    ['--nope'], ['--seed', '-1'], ['--seed', 'x'], ['--cfg-options', 'foo'], ['--cfg-options', '=1'],
    ['--cfg-options', 'model=3'], ['--cfg-options', 'train_cfg.max_epochs=-1'], ['--cfg-options', 'optim_wraper.x=1'],
    ['--cfg-options', 'test_dataloader.batch_size=0'], ['--cfg-options', 'model.head.num_classes=9'],
    ['--launcher', 'slurm'], ['--launcher', 'pytorch'], ['--data-root', 'OUT/none'], ['--work-dir', 'GIVEN/image.png'],
    ['--out', 'OUT/no/such/out'], ['--out'], ['--jobs', '0'], ['--resume', 'nope.pth'], ['--resume', CONFIG],
    ['--amp-dtype', 'fp16'], ['--names', 'a', 'b', 'c'], ['extra'], ['--cfg-options', 'load_from=nope.pth'],
)  # fmt: skip


def command_attacks(draw: random.Random, given: Path) -> Iterator[Attack]:
    """Draw wrong command lines for ever."""
    while True:
        tool = draw.choice(list(COMMANDS))
        line = list(COMMANDS[tool])
        change = draw.choice(['replace', 'replace', 'replace', 'drop', 'extra', 'extra', 'swap', 'misspell'])
        place = draw.randrange(len(line))
        if change == 'replace':
            line[place] = draw.choice(WRONG)
        elif change == 'drop':
            del line[place]
        elif change == 'extra':
            line += draw.choice(EXTRA)
        elif change == 'swap':
            line.insert(0, line.pop(place))
        else:
            line[place] = line[place][:-1] + draw.choice('xyz-./')
        yield Attack('commands', f'{tool} {" ".join(map(repr, line))}', tool, line)


# ------------------------------------------------------------------------------------------------------ checkpoints


def damaged_bytes(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Damage a file."""
    size = len(content)
    damage = draw.choice(['cut', 'flip', 'zeros', 'empty', 'text', 'double', 'head'])
    place = draw.randrange(size)
    if damage == 'cut':
        return content[:place], f'cut after {place} of {size} bytes'
    if damage == 'flip':
        return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :], f'byte {place} flipped'
    if damage == 'zeros':
        end = min(size, place + 5000)
        return content[:place] + bytes(end - place) + content[end:], f'5,000 zeros from byte {place}'
    return {
        'empty': (b'', 'empty'),
        'text': (b'no checkpoint\n', 'a text'),
        'double': (content + content, 'twice'),
        'head': (content[place:], f'without its first {place} bytes'),
    }[damage]


def damaged_content(checkpoint: dict, draw: random.Random) -> str:
    """Change one thing that a checkpoint holds; return what."""
    weights = checkpoint['state_dict']
    name = draw.choice(list(weights))
    part = draw.choice(list(checkpoint))
    wrong = draw.choice([None, 3, 'text', [], {}, torch.zeros(2), [1, 'a'], {'a': {}}])
    change = draw.choice(['drop', 'part', 'tensor', 'shape', 'nan', 'rename', 'no tensor', 'meta', 'type', 'state'])
    if change == 'drop':
        del checkpoint[part]
        return f'without {part}'
    if change == 'part':
        checkpoint[part] = wrong
        return f'{part} is {wrong!r}'
    if change == 'tensor':
        del weights[name]
        return f'without the tensor {name}'
    if change == 'shape':
        weights[name] = torch.zeros(*weights[name].shape, 2)
        return f'{name} of another shape'
    if change == 'nan':
        weights[name] = torch.full_like(weights[name], math.nan, dtype=torch.float32)
        return f'{name} is NaN'
    if change == 'rename':
        weights[f'module.{name}'] = weights.pop(name)
        return f'module.{name}'
    if change == 'no tensor':
        weights[name] = wrong
        return f'{name} is {wrong!r}'
    if change == 'type':
        weights[name] = weights[name].to(torch.complex64)
        return f'{name} is complex'
    holder = checkpoint['meta'] if change == 'meta' else checkpoint['optimizer']
    key = draw.choice(list(holder))
    holder[key] = wrong
    return f'{change} {key} is {wrong!r}'


def checkpoint_attacks(draw: random.Random, given: Path) -> Iterator[Attack]:
    """Draw damaged checkpoints for ever, and bring them in by every route."""
    content = (given / 'epoch_1.pth').read_bytes()
    wrong = 'OUT/wrong.pth'
    routes = [
        ('train', ['GIVEN/longer.py', '--work-dir', 'OUT/run', '--resume', wrong]),
        ('train', [CONFIG, '--work-dir', 'OUT/run', '--cfg-options', f'load_from={wrong}']),
        ('train', ['GIVEN/student.py', '--work-dir', 'OUT/run', '--cfg-options', f'model.teacher.checkpoint={wrong}']),
        ('test', [CONFIG, wrong, '--work-dir', 'OUT/run']),
        ('export_backbone', [wrong, 'OUT/backbone.pth']),
        ('probe', [CONFIG, wrong, '--images', '16', '--out', 'OUT/probe']),
        ('calibration', [CONFIG, wrong, '--out', 'OUT/calibration']),
        ('predict', [wrong, 'GIVEN/image.png']),
    ]
    while True:
        tool, arguments = draw.choice(routes)
        if draw.random() < 0.4:
            damaged, what = damaged_bytes(content, draw)
            prepare: Callable[[Path], None] = partial(_write_bytes, damaged)
        else:
            checkpoint = torch.load(given / 'epoch_1.pth', weights_only=False)
            what = damaged_content(checkpoint, draw)
            prepare = partial(_save, checkpoint)
        route = arguments[3] if '--cfg-options' in arguments else tool
        yield Attack('checkpoints', f'{route} {arguments[-1]}: {what}', tool, arguments, prepare)


def _write_bytes(content: bytes, folder: Path) -> None:
    (folder / 'wrong.pth').write_bytes(content)


def _save(checkpoint: dict, folder: Path) -> None:
    torch.save(checkpoint, folder / 'wrong.pth')


# ----------------------------------------------------------------------------------------------- images and lists

OWN = ['model.backbone.base_channels=8', 'model.backbone.stem_channels=8', 'model.head.in_channels=64']


def image_attacks(draw: random.Random, given: Path) -> Iterator[Attack]:
    """Draw damaged images and lists of images for ever."""
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    while True:
        line = ['--data', 'OUT/data', '--work-dir', 'OUT/run', '--epochs', '1', '--cfg-options', *OWN]
        line += [f'{name}_dataloader.num_workers={draw.choice([0, 1])}' for name in ('train', 'val')]
        if draw.random() < 0.6:
            ending = draw.choice(['.png', '.jpg', '.bmp', '.tif', '.webp'])
            encoded = cv2.imencode(ending, pixels)[1].tobytes()
            content, what = damaged_bytes(encoded, draw)
            count = draw.choice([1, 3, 40])
            prepare = partial(_write_images, content, ending, count, draw.choice(['train', 'val']))
            yield Attack('images', f'{count} {ending}: {what}', 'train', line, prepare)
        else:
            text, what = draw.choice(LISTS)
            yield Attack('images', f'list: {what}', 'train', ['OUT/own.py', *line[2:4]], partial(_write_list, text))


GOOD = [f'{name}/{number}.png {label}' for label, name in enumerate('ab') for number in range(12)]
LISTS = [
    ('', 'empty'),
    ('\n\n', 'empty lines only'),
    ('\ufeff' + '\n'.join(GOOD), 'a byte-order mark'),
    ('\r\n'.join(GOOD), 'line ends of Windows'),
    ('\n'.join([*GOOD, 'a/1.png -1']), 'a negative label'),
    ('\n'.join([*GOOD, 'a/1.png --1']), 'a label with two signs'),
    ('\n'.join([*GOOD, 'a/1.png 99999999999']), 'a huge label'),
    ('\n'.join([*GOOD, 'a/1.png 7']), 'a label of no class'),
    ('\n'.join([*GOOD, 'a/1.png one']), 'a word for a label'),
    ('\n'.join([*GOOD, 'a/1.png']), 'no label'),
    ('\n'.join([*GOOD, 'a/none.png 0']), 'a missing file'),
    ('\n'.join([*GOOD, '../../../etc/passwd 0']), 'a file that is no image'),
    ('\n'.join([*GOOD, *GOOD]), 'all twice'),
    ('\n'.join(line.replace(' ', '\t') for line in GOOD), 'tabs'),
    ('\n'.join(line.replace(' ', ',') for line in GOOD), 'commas'),
    ('\0\1\2', 'binary'),
    ('\n'.join(GOOD[:1]), 'one image'),
]


def _write_images(content: bytes | None, ending: str, count: int, split: str, folder: Path) -> None:
    """Write 24 training images and 8 validation images of two classes, and damaged ones among them."""
    for part, number in (('train', 12), ('val', 4)):
        for seed, name in enumerate('ab'):
            place = folder / 'data' / part / name
            place.mkdir(parents=True)
            for index in range(number):
                pixels = np.random.default_rng(seed * 100 + index).integers(0, 255, (40, 40, 3), np.uint8)
                cv2.imwrite(str(place / f'{index}.png'), pixels)
    for index in range(count if content is not None else 0):
        (folder / f'data/{split}/a/damaged {index}{ending}').write_bytes(content)


def _write_list(text: str, folder: Path) -> None:
    """Write a list of images, and a config that trains on it."""
    _write_images(None, '', 0, 'train', folder)
    (folder / 'list.txt').write_text(text, encoding='utf-8', newline='')
    (folder / 'own.py').write_text(
        f"""
_base_ = '{ROOT}/configs/cds/resnet18w16_fashion.py'
pipeline = [dict(type='LoadImage', max_unreadable=3), dict(type='MultiViewTransform', views=[[], []]),
            dict(type='PackViews')]
listed = dict(_delete_=True, type='CustomDataset', data_root='{folder}/data/train', ann_file='{folder}/list.txt',
              data_prefix='', classes=['a', 'b'], pipeline={{{{_base_.train_dataloader.dataset.pipeline}}}})
model = dict(head=dict(num_classes=2), data_preprocessor=dict(num_classes=2))
train_dataloader = dict(batch_size=8, num_workers=0, dataset=listed)
val_dataloader = dict(num_workers=0, dataset={{**listed, 'pipeline': {{{{_base_.val_dataloader.dataset.pipeline}}}}}})
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
"""
    )


# -------------------------------------------------------------------------------------------------------- the whole

KINDS = dict(configs=config_attacks, commands=command_attacks, checkpoints=checkpoint_attacks, images=image_attacks)


def prepare_given(given: Path) -> None:
    """Train two steps, whose config and checkpoint the attacks start from, and write files that are no configs."""
    (given / 'image.png').write_bytes(cv2.imencode('.png', np.zeros((28, 28), np.uint8))[1].tobytes())
    (given / 'empty.py').write_text('')
    (given / 'syntax.py').write_text('model = (\n')
    (given / 'binary.py').write_bytes(bytes(range(256)))
    config = short_config('cds', given)
    write(config, given / 'config.py')
    write({**config, 'train_cfg': {**config['train_cfg'], 'max_epochs': 2}}, given / 'longer.py')
    write(short_config('cds_distill', given), given / 'student.py')
    work = partial(run, 'train', [str(given / 'config.py'), '--work-dir', str(given), '--overwrite'])
    if wait(start(work, 1, given / 'output'), 300):
        sys.exit((given / 'output').read_text()[-3000:])


def answer(attack: Attack, given: Path, folder: Path) -> tuple[str, str]:
    """Make an attack; return the kind of the answer, and what was printed."""
    attack.prepare(folder)
    arguments = [each.replace('OUT', str(folder)).replace('GIVEN', str(given)) for each in attack.arguments]

    def work() -> int:
        os.chdir(folder)
        return run(attack.tool, arguments)

    status = wait(start(work, 1, folder / 'output'), SECONDS)
    said = (folder / 'output').read_text(errors='replace') if (folder / 'output').is_file() else ''
    if status is None:
        return 'hang', said
    if status == 0:
        return 'accepted', said
    last = said.rpartition('Traceback (most recent call last)')[2]
    told = 'mmcds: ' in last or last == said  # a loading process prints its own traceback before the line
    return 'line' if told and said.strip() and status > 0 else 'traceback', said


def main() -> int:
    """Attack, and print the counts."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    for kind, count in (('configs', 1000), ('commands', 300), ('checkpoints', 200), ('images', 60)):
        parser.add_argument(f'--{kind}', type=int, default=count, help=f'how many (default: {count})')
    parser.add_argument('--seed', type=int, default=0, help='of what is drawn (default: 0)')
    parser.add_argument('--out', default='attacks', help='folder for the lists of answers (default: attacks)')
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    bad = False
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch, 'given')
        given.mkdir()
        prepare_given(given)
        files = {name: (out / f'{name}.txt').open('w') for name in ('line', 'accepted', 'traceback', 'hang')}
        for kind, attacks in KINDS.items():
            counts: Counter[str] = Counter()
            begin = time.time()
            for number, attack in zip(
                range(getattr(args, kind)), attacks(random.Random(args.seed), given), strict=False
            ):
                folder = Path(scratch, f'{kind}-{number}')
                folder.mkdir()
                found, said = answer(attack, given, folder)
                counts[found] += 1
                lines = said.strip().splitlines()[-1:] if found in ('line', 'accepted') else said.splitlines()[-25:]
                print(
                    f'{attack.kind} {number}: {attack.what}\n    ' + '\n    '.join(lines),
                    file=files[found],
                    flush=True,
                )
                shutil.rmtree(folder)
            bad |= counts['hang'] > 0 or counts['traceback'] > ALLOWED * max(1, counts.total())
            numbers = ', '.join(f'{counts[name]} {name}' for name in files)
            print(f'{kind}: {counts.total()} in {time.time() - begin:.0f} s: {numbers}', flush=True)
    return int(bad)


if __name__ == '__main__':
    sys.exit(main())
