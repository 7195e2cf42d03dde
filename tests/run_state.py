"""What a run leaves in its folder, to be compared with what another one leaves."""

from pathlib import Path

import torch

from mmcds.evaluation.curves import read_scalars
from mmcds.openmmlab.untrusted import read_checkpoint
from mmcds.openmmlab.work_dir import VALIDATED, named_checkpoint


def state_of(folder: Path) -> dict:
    """Read everything that a user has after a run."""
    last = read_checkpoint(named_checkpoint(folder))
    best = sorted(folder.glob('best_*.pth'))
    training, validations = read_scalars(folder)
    return dict(
        weights=last['state_dict'],
        averaged=last.get('ema_state_dict', {}),
        optimiser=last['optimizer']['state'],
        schedules=last['param_schedulers'],
        score=last['message_hub']['runtime_info'].get('best_score'),
        best=[read_checkpoint(path)['state_dict'] for path in best],
        best_files=[path.name for path in best],
        validations=[
            {key: value for key, value in each.items() if '/' in key or key == 'epoch'} for each in validations
        ],
        losses=[(each['iter'], each['loss']) for each in training],
        validated=(folder / VALIDATED).read_text(),
    )


def same(left: object, right: object) -> bool:
    """Return whether two states are equal to the last bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right
