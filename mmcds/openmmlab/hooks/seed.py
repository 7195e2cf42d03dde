"""Random streams that depend on (seed, epoch, rank) alone, so that a resumed run equals one never stopped."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed Python, NumPy and PyTorch at the start of every training epoch.

    MMEngine seeds once at the start, so a resumed run would see other random numbers from then on; and its
    worker seeds know no epoch, so workers that are started anew repeat their augmentations every epoch. With
    this hook, ``worker_init_fn=dict(type='seed_worker')`` and ``persistent_workers=False`` neither happens: on
    the CPU, stopping after an epoch and resuming gives the same weights to the last bit.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the streams of this epoch and rank."""
        entropy = np.random.SeedSequence([runner.seed, runner.epoch, get_rank()])
        _seed_all(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed a loading process from PyTorch's own per-epoch worker seed, which EpochSeedHook determines.

    Args:
        worker_id: Number of the worker; it is part of PyTorch's seed already.
    """
    _seed_all(torch.initial_seed())
