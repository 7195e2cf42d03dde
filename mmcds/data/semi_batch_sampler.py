"""Batches with a given number of labelled and of unlabelled images, on any number of ranks."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from mmcds.core.errors import ConfigError


def draw_batches(pool: np.ndarray, size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw batches from a pool that is shuffled anew each time it runs out.

    No sample comes twice in a batch, unless the pool holds fewer than ``size``; then all come equally often, up
    to one. Over the batches, too, all come equally often, up to one.

    Args:
        pool: Indices, (P,).
        size: Samples per batch.
        count: Number of batches.
        rng: Source of randomness.

    Returns:
        Indices, (count, size).
    """
    batches = np.empty((count, size), dtype=np.int64)
    left: list[int] = []
    for batch in batches:
        chosen: list[int] = []
        waiting: list[int] = []
        held: set[int] = set()
        while len(chosen) < size:
            if not left:
                left = rng.permutation(pool).tolist()
            index = left.pop()
            if index in held and len(pool) >= size:
                waiting.append(index)  # until the next batch
            else:
                chosen.append(index)
                held.add(index)
        left += waiting
        batch[:] = chosen
    return batches


@DATA_SAMPLERS.register_module()
class SemiBatchSampler(Sampler):
    """Puts ``batch_size - num_unlabelled`` labelled and ``num_unlabelled`` unlabelled images into every batch.

    All batches are full, on the last step too. In a distributed run the numbers hold for every rank; the ranks
    share one random order, take different images of it, and have the same number of batches. The order depends
    on the seed and the epoch alone, so a resumed run goes on as if it had not stopped.

    It takes the place of the loader's own batches::

        train_dataloader = dict(
            batch_size=128, sampler=dict(type='DefaultSampler', shuffle=True),
            batch_sampler=dict(type='SemiBatchSampler', num_unlabelled=64), dataset=...)

    Args:
        sampler: A ``DefaultSampler``, which knows data set, seed, epoch, rank and number of ranks.
        batch_size: Images of both kinds on each rank.
        num_unlabelled: Unlabelled images among them; 0 trains on the labelled ones alone.
        epoch: What an epoch is: ``'labelled'`` or ``'unlabelled'`` shows every image of that kind once; ``'all'``
            has as many batches as if every image were labelled, so that trainings with different shares of labels,
            with and without unlabelled images, take as many steps; a number is the number of batches.
        drop_last: Leave out the images that do not fill a batch on every rank; False shows them, in a batch
            that is filled up.

    Raises:
        ConfigError: If the numbers do not fit the data set.
    """

    def __init__(
        self,
        sampler: DefaultSampler,
        batch_size: int,
        num_unlabelled: int,
        epoch: str | int = 'all',
        drop_last: bool = True,
    ) -> None:
        for name in ('dataset', 'seed', 'epoch', 'rank', 'world_size'):
            if not hasattr(sampler, name):
                raise ConfigError(
                    f'SemiBatchSampler: {type(sampler).__name__} does not know its {name}. Set '
                    "sampler=dict(type='DefaultSampler', shuffle=True)."
                )
        if not 0 <= num_unlabelled < batch_size:
            raise ConfigError(
                f'SemiBatchSampler: num_unlabelled is {num_unlabelled} of batch_size {batch_size} images; let it lie '
                'from 0 to batch_size - 1, since a batch without any label teaches the classifier nothing.'
            )
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self.sizes = (batch_size - num_unlabelled, num_unlabelled)
        labels = np.asarray(cast(Any, sampler.dataset).get_gt_labels())
        self.pools = (np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0))
        for kind, pool, size, least in zip(
            ('labelled', 'unlabelled'), self.pools, self.sizes, (1, num_unlabelled * sampler.world_size), strict=True
        ):
            if size and len(pool) < least:
                raise ConfigError(
                    f'SemiBatchSampler: every batch is to hold {size} {kind} images on each of '
                    f'{sampler.world_size} rank(s), but the data set has {len(pool)}. Change num_unlabelled or '
                    'batch_size, or keep another share of the labels.'
                )
        self.num_batches = self._count(epoch)

    def _count(self, epoch: str | int) -> int:
        if isinstance(epoch, int):
            count = epoch
        elif epoch in ('labelled', 'unlabelled', 'all'):
            shown = dict(
                labelled=(len(self.pools[0]), self.sizes[0]),
                unlabelled=(len(self.pools[1]), self.sizes[1]),
                all=(len(self.pools[0]) + len(self.pools[1]), self.sizes[0] or self.batch_size),
            )
            images, per_rank = shown[epoch]
            per_batch = max(per_rank, 1) * self.sampler.world_size
            count = images // per_batch if self.drop_last else -(-images // per_batch)
            count = count if per_rank else 0
        else:
            raise ConfigError(
                f"SemiBatchSampler: epoch is {epoch!r}; choose 'labelled', 'unlabelled', 'all' or a number of batches."
            )
        if count < 1:
            raise ConfigError(
                f'SemiBatchSampler: an epoch of {epoch!r} has no batch with {self.sizes[0]} labelled '
                f'and {self.sizes[1]} unlabelled images. Use smaller batches, drop_last=False, or '
                'another epoch.'
            )
        return count

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this rank: labelled images first."""
        rng = np.random.default_rng([self.sampler.seed, self.sampler.epoch])
        world, rank = self.sampler.world_size, self.sampler.rank
        parts = [
            draw_batches(pool, size * world, self.num_batches, rng)[:, rank * size : (rank + 1) * size]
            for pool, size in zip(self.pools, self.sizes, strict=True)
        ]
        for labelled, unlabelled in zip(*parts, strict=True):
            yield [*labelled.tolist(), *unlabelled.tolist()]
