"""Random numbers of an image that depend on seed, epoch and image, and not on who loads it or when.

A loading process draws from streams of its own, and where it stands in them depends on which images it has loaded
before. So a run that is resumed within an epoch, or with another number of processes, would see other views. Here
every image begins its own streams: :class:`SeedByImage` stands before all transforms of a training and sets the
streams of Python, NumPy and PyTorch by the key of the epoch and the index of the image; ``MultiViewTransform`` does so
for every view.
"""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform

_MASK = 2**64 - 1


def mix(*parts: int) -> int:
    """Return 64 bits that depend on all parts, by the finaliser of SplitMix64 after each of them."""
    state = 0
    for part in parts:
        state = ((state ^ (part & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def seed_streams(*parts: int) -> None:
    """Set the streams of Python, NumPy and of PyTorch on the CPU by some numbers."""
    state = mix(*parts)
    random.seed(state)
    np.random.seed(state & 0xFFFFFFFF)
    torch.default_generator.manual_seed(state >> 1)


class EpochKey:
    """A number that the loading processes see, and the training sets before every epoch.

    Args:
        shared: Whether other processes read it; they do so through shared memory, or, where there is none left, as
            they find it when they start.
    """

    def __init__(self, shared: bool) -> None:
        self._value = torch.zeros((), dtype=torch.int64)
        if shared:
            try:
                self._value.share_memory_()
            except (OSError, RuntimeError):
                self._value = self._value.clone()

    def set(self, value: int) -> None:
        """Set it."""
        self._value.fill_(value % 2**63)

    def get(self) -> int:
        """Return it."""
        return int(self._value)


class SeedByImage(BaseTransform):
    """Begin the random streams of an image; a sample without ``sample_idx`` leaves them as they are.

    Args:
        key: Of the epoch.
    """

    def __init__(self, key: EpochKey) -> None:
        self.key = key

    def transform(self, results: dict) -> dict:
        """Set the streams."""
        if 'sample_idx' in results:
            seed_streams(self.key.get(), results['sample_idx'])
        return results

    def transform_batch(self, images: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
        """Leave the images as they are; steps that take batches draw for every image by its index."""
        return images

    def __repr__(self) -> str:
        return 'SeedByImage()'


def pipelines(dataset: Any) -> Iterator[Any]:
    """Return the pipeline of a data set, or those of all data sets that it wraps."""
    if getattr(dataset, 'pipeline', None) is not None:
        yield dataset.pipeline
        return
    for inner in inner_datasets(dataset):
        yield from pipelines(inner)


def inner_datasets(dataset: Any) -> list[Any]:
    """Return the data sets that a wrapper holds."""
    return [*getattr(dataset, 'datasets', ()), *([dataset.dataset] if hasattr(dataset, 'dataset') else ())]


def repeats(dataset: Any) -> bool:
    """Return whether a wrapper shows an image several times in an epoch, so that its index is not enough."""
    own = hasattr(dataset, 'times') or hasattr(dataset, 'oversample_thr')
    return own or any(repeats(inner) for inner in inner_datasets(dataset))


def key_by_image(dataset: Any, shared: bool) -> EpochKey | None:
    """Let the random numbers of a data set's images depend on a key and the image alone.

    Args:
        dataset: Of a training; its pipelines are changed. Doing it again replaces the key.
        shared: Whether other processes load it.

    Returns:
        The key, to be set before every epoch; None if the data set shows an image several times in an epoch.
    """
    if repeats(dataset):
        return None
    key = EpochKey(shared)
    for pipeline in pipelines(dataset):
        steps = getattr(pipeline, 'transforms', None)
        if not isinstance(steps, list):
            continue
        if not (steps and isinstance(steps[0], SeedByImage)):
            steps.insert(0, SeedByImage(key))
        for step in steps:
            if hasattr(step, 'epoch_key'):
                step.epoch_key = key
        steps[0].key = key
    return key
