"""Trained networks that come with the package, so that the first minute after an installation needs no network.

Each is a checkpoint in ``mmcds/zoo``, without the state of its optimiser, and a card beside it (JSON): config,
command, seed, accuracy, SHA-256 and versions. A name stands for the file wherever a tool takes a checkpoint, and for
``mmpretrain.get_model(NAME, pretrained=True)``.

    python -m mmcds.openmmlab.zoo WORK_DIR NAME        takes the last checkpoint of a run in
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import read_scalars
from mmcds.openmmlab.checkpoint import file_sha256, load_training_checkpoint, model_state
from mmcds.openmmlab.record import RECORD
from mmcds.openmmlab.registration import ZOO
from mmcds.openmmlab.work_dir import named_checkpoint, write_whole

PACKAGES = ('torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain')


def cards() -> dict[str, dict[str, Any]]:
    """Return what is known of every network, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(ZOO.glob('*.json'))}


def find(checkpoint: str) -> str:
    """Return the file of a network of the zoo, or what was given if it is the name of none."""
    file = ZOO / f'{checkpoint}.pth'
    return str(file) if file.parent == ZOO and file.is_file() else checkpoint


def add(work_dir: Path, name: str, folder: Path = ZOO) -> dict[str, Any]:
    """Take the last checkpoint of a run into the zoo, and write its card.

    Args:
        work_dir: Of a run that has ended.
        name: Of the network, as in ``mmpretrain.list_models``.
        folder: Where the zoo is.

    Raises:
        ConfigError: If the run kept no checkpoint, or was not validated.
    """
    path = named_checkpoint(work_dir)
    if not path:
        raise ConfigError(f'{work_dir} names no checkpoint. Give the folder of a run that has ended.')
    checkpoint, config = load_training_checkpoint(path)
    scores = [record for record in read_scalars(work_dir)[1] if 'accuracy/top1' in record]
    if not scores:
        raise ConfigError(f'{work_dir} has no accuracy. Give the folder of a run that was validated.')
    run = json.loads(max(work_dir.glob(f'*/{RECORD}')).read_text())
    config.work_dir = f'work_dirs/{name}'  # not where it happened to be trained
    kept = dict(cfg=config.pretty_text, dataset_meta=checkpoint['meta'].get('dataset_meta'), name=name)
    target = folder / f'{name}.pth'
    torch.save(dict(meta=kept, state_dict=model_state(checkpoint, path)), target)
    collection, _, rest = name.partition('_')
    command = f'python tools/train.py configs/{collection}/{rest}.py --seed {run["seed"]}'
    card = dict(
        name=name,
        config=f'mmcds::{collection}/{rest}.py',
        command=command,
        seed=run['seed'],
        commit=(run['code'] or {}).get('commit'),
        accuracy=round(float(scores[-1]['accuracy/top1']), 4),
        epoch=scores[-1]['epoch'],
        sha256=file_sha256(target),
        python=run['python'],
        packages={package: run['packages'].get(package) for package in PACKAGES},
    )
    write_whole(folder / f'{name}.json', json.dumps(card, indent=2) + '\n')
    return card


if __name__ == '__main__':
    print(json.dumps(add(Path(sys.argv[1]), sys.argv[2]), indent=2))
