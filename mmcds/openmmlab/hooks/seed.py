"""Random streams that depend on seed, epoch, step and image alone, so that a resumed run equals one never stopped."""

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import FUNCTIONS
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from mmcds.views.keyed import EpochKey, key_by_image, mix, seed_streams


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed Python, NumPy and PyTorch at the start of every epoch, step and image of a training.

    MMEngine seeds once at the start, so a resumed run would see other random numbers from then on; and its worker
    seeds know no epoch, so workers that are started anew repeat their augmentations every epoch. With this hook, what
    an image is turned into depends on the seed of the run, the epoch and the image (:mod:`mmcds.views.keyed`), and
    what the network draws on seed, step and rank: on the CPU, stopping after any step and resuming, with any number of
    loading processes, gives the same weights to the last bit. Trainings by iterations, and data sets that show an
    image several times in an epoch, are seeded by epoch and step alone.
    """

    priority = 'VERY_HIGH'
    _key: EpochKey | None = None

    def before_train(self, runner: Runner) -> None:
        """Let the images begin their own streams, before the loading processes start."""
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            self._key = key_by_image(loop.dataloader.dataset, shared=loop.dataloader.num_workers > 0)
            if self._key is None:
                runner.logger.info('The data set repeats images within an epoch: a resume within one is not exact.')

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the streams of this epoch and rank, and the key of its images."""
        entropy = np.random.SeedSequence([runner.seed, runner.epoch, get_rank()])
        _seed_all(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        if self._key is not None:
            self._key.set(mix(runner.seed, runner.epoch))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the streams of this step and rank."""
        seed_streams(runner.seed, runner.iter, get_rank())
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(mix(runner.seed, runner.iter, get_rank()) >> 1)


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@FUNCTIONS.register_module()
def seed_worker(worker_id: int, _scope_: str | None = None) -> None:
    """Seed a loading process from PyTorch's own per-epoch worker seed, which EpochSeedHook determines.

    Args:
        worker_id: Number of the worker; it is part of PyTorch's seed already.
        _scope_: Written by MMEngine into configs that are inherited from another package; of no use here.
    """
    _seed_all(torch.initial_seed())
