"""A training by epochs that goes on within one: the images that were seen are skipped, and none of them is loaded."""

import copy
from collections.abc import Iterable, Iterator
from itertools import islice

from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader


class _From:
    """The batches of a sampler from one of them on.

    Args:
        batches: Sampler of batches.
        first: The first one that is given.
    """

    def __init__(self, batches: Iterable, first: int) -> None:
        self.batches, self.first = batches, first

    def __iter__(self) -> Iterator:
        return islice(iter(self.batches), self.first, None)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's loop, which begins the epoch of a resumed run where it was left: at step ``iter`` of the run."""

    @property
    def done(self) -> int:
        """Return how many steps of the current epoch are done."""
        return self._iter - self._epoch * len(self.dataloader)

    def run_epoch(self) -> None:
        """Iterate over what is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self.done
        for index, batch in enumerate(self._rest(done), start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _rest(self, done: int) -> DataLoader:
        """Return the loader, from a step of the epoch on."""
        if not done:
            return self.dataloader
        rest = copy.copy(self.dataloader)
        rest.__dict__['batch_sampler'] = _From(self.dataloader.batch_sampler, done)  # loaders refuse to be changed
        return rest
