"""Trained networks that come with the package, so that the first minute after an installation needs no network.

Each is a checkpoint in ``mmcds/zoo`` without the state of its optimiser, a card (JSON) with config, command, seed,
metrics, SHA-256 and versions, and the log of its training (a JSON object in every line; the first two networks have
none). A name stands for the checkpoint wherever a tool takes one, and for ``mmpretrain.get_model(NAME,
pretrained=True)``; a detector is ``mmdet.apis.DetInferencer(weights=find(NAME))``. The checkpoints are MMEngine's and
not ``.safetensors``: all of these read no other form, and the config is inside. ``mmcds export NAME FOLDER`` makes
the latter.

    python -m mmcds.openmmlab.zoo WORK_DIR NAME [COMMAND ...]

takes the last checkpoint of a run in; the commands are those that had to come before its own.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import read_scalars
from mmcds.openmmlab.checkpoint import file_sha256, load_training_checkpoint, model_state
from mmcds.openmmlab.record import RECORD
from mmcds.openmmlab.registration import ZOO
from mmcds.openmmlab.work_dir import named_checkpoint, write_whole

PACKAGES = ('torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection')


def cards() -> dict[str, dict[str, Any]]:
    """Return what is known of every network, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(ZOO.glob('*.json'))}


def find(checkpoint: str) -> str:
    """Return the file of a network of the zoo, or what was given if it is the name of none."""
    file = ZOO / f'{checkpoint}.pth'
    return str(file) if file.parent == ZOO and file.is_file() else checkpoint


def add(work_dir: Path, name: str, before: Sequence[str] = (), folder: Path = ZOO) -> dict[str, Any]:
    """Take the last checkpoint of a run into the zoo, with its log, and write its card.

    Args:
        work_dir: Of a run that has ended.
        name: Of the network, as in ``mmpretrain.list_models``.
        before: Commands that the run needed before its own.
        folder: Where the zoo is.

    Raises:
        ConfigError: If the run kept no checkpoint, or was not validated.
    """
    path = named_checkpoint(work_dir)
    if not path:
        raise ConfigError(f'{work_dir} names no checkpoint. Give the folder of a run that has ended.')
    checkpoint, config = load_training_checkpoint(path)
    meta = checkpoint['meta']
    last = next((each for each in read_scalars(work_dir)[1] if each['epoch'] == meta['epoch']), None)
    if last is None:
        raise ConfigError(f'{work_dir} has no validation of its last epoch. Give the folder of a run that has one.')
    metrics = {key: round(float(value), 4) for key, value in last.items() if '/' in key}
    run = json.loads(max(work_dir.glob(f'*/{RECORD}')).read_text())
    config.work_dir = f'work_dirs/{name}'  # not where it happened to be trained
    kept = {key: meta.get(key) for key in ('dataset_meta', 'epoch')}
    target = folder / f'{name}.pth'
    torch.save(
        dict(
            meta=dict(kept, cfg=config.pretty_text, name=name, metrics=metrics),
            state_dict=model_state(checkpoint, path),
        ),
        target,
    )
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    write_whole(folder / f'{name}.jsonl', ''.join(log.read_text() for log in logs))
    collection, _, rest = name.partition('_')
    card = dict(
        name=name,
        config=f'mmcds::{collection}/{rest}.py',
        command=' && '.join([*before, f'python tools/train.py configs/{collection}/{rest}.py --seed {run["seed"]}']),
        seed=run['seed'],
        threads=run['threads'],
        commit=(run['code'] or {}).get('commit'),
        epoch=meta['epoch'],
        **({'accuracy': metrics['accuracy/top1']} if 'accuracy/top1' in metrics else {}),
        metrics=metrics,
        sha256=file_sha256(target),
        python=run['python'],
        packages={package: run['packages'].get(package) for package in PACKAGES},
    )
    write_whole(folder / f'{name}.json', json.dumps(card, indent=2) + '\n')
    return card


if __name__ == '__main__':
    print(json.dumps(add(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]), indent=2))
