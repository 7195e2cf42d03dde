"""A training by epochs that goes on within one: the images that were seen are skipped, and none of them is loaded."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.registry import LOOPS
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError


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


#: Key of a checkpoint: how many steps an epoch had, which one it was, and the step of the run with which it began.
POSITION = 'position'


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's loop, which begins the epoch of a resumed run where it was left.

    Attributes:
        began: The step of the run with which the current epoch began.
    """

    began = 0

    @property
    def done(self) -> int:
        """Return how many steps of the current epoch are done."""
        return self._iter - self.began

    def position(self) -> dict[str, int]:
        """Return what :meth:`take_up` needs, to be saved."""
        return dict(steps=len(self.dataloader), began=self.began, epoch=self._epoch)

    def take_up(self, checkpoint: Mapping[str, Any]) -> None:
        """Find the place in the epoch from which a checkpoint goes on.

        Epochs of another length, as with another batch size or number of processes, begin at the end of an epoch.

        Raises:
            ConfigError: If epochs have another length and the checkpoint was saved within one.
        """
        epoch, step, steps = checkpoint['meta']['epoch'], checkpoint['meta']['iter'], len(self.dataloader)
        saved = checkpoint.get(POSITION) or self._position_of_host(checkpoint, epoch, step)
        inside = step - saved['began']
        between = inside == 0 or (inside == saved['steps'] and epoch > saved['epoch'])
        self.began = step if between else saved['began']
        self._max_iters = self.began + (self._max_epochs - epoch) * steps
        if saved['steps'] == steps:
            return
        if not between:
            raise ConfigError(
                f'the checkpoint was saved after {inside} steps of epoch {epoch + 1}, and an epoch had '
                f'{saved["steps"]} steps, but has {steps} now. Resume with the same batch size, images and number of '
                'processes, at least until this epoch has ended.'
            )
        self.runner.logger.warning(
            f'an epoch had {saved["steps"]} steps when the checkpoint was saved, and has {steps} now: the run goes on '
            f'with epoch {epoch + 1}. Schedules that count steps, as those with convert_to_iter_based, keep the '
            'earlier number.'
        )

    def _position_of_host(self, checkpoint: Mapping[str, Any], epoch: int, step: int) -> dict[str, int]:
        """Return the place of a checkpoint that does not say it: all its epochs had one length."""
        known = (checkpoint.get('message_hub') or {}).get('runtime_info') or {}
        steps = len(self.dataloader)
        if known.get('max_iters') and known.get('max_epochs'):
            steps = known['max_iters'] // known['max_epochs']
        return dict(steps=steps, began=epoch * steps, epoch=epoch)

    def run_epoch(self) -> None:
        """Iterate over what is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self.done
        for index, batch in enumerate(self._rest(done), start=done):
            self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.began = self._iter

    def _rest(self, done: int) -> DataLoader:
        """Return the loader, from a step of the epoch on."""
        if not done:
            return self.dataloader
        rest = copy.copy(self.dataloader)
        rest.__dict__['batch_sampler'] = _From(self.dataloader.batch_sampler, done)  # loaders refuse to be changed
        return rest
