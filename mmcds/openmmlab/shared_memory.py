"""Loading processes hand their batches over in shared memory, and wait for ever when there is too little of it.

Containers have 64 MB of ``/dev/shm`` unless told otherwise, which is less than a loader of ImageNet wants. So the
size of its batches is measured when a loader is built, and it gets as many processes as the memory is enough for.
"""

import os
import pickle
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError

SHARED = Path('/dev/shm')
PAGE = 4096


class _Measure(pickle.Pickler):
    """Add up what the tensors of an object take in shared memory, as they are pickled."""

    def __init__(self) -> None:
        super().__init__(BytesIO())
        self.bytes = 0

    def reducer_override(self, obj: Any) -> Any:
        """Count a tensor in place of writing it."""
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        self.bytes += -(-obj.untyped_storage().nbytes() // PAGE) * PAGE
        return int, ()


def shared_bytes(batch: object) -> int:
    """Return what a batch takes in shared memory, in bytes; each tensor takes whole pages."""
    measure = _Measure()
    measure.dump(batch)
    return measure.bytes


@contextmanager
def streams_kept() -> Iterator[None]:
    """Give Python, NumPy and PyTorch the states of their random streams back."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def batch_bytes(loader: DataLoader) -> int:
    """Return what a batch of a loader takes in shared memory, by its first image; 0 if that is unreadable."""
    dataset: Any = loader.dataset
    size = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size or 1
    count = min(2, size)
    try:
        with streams_kept():
            whole = hasattr(dataset, '__getitems__')
            items = dataset.__getitems__([0] * count) if whole else [dataset[0]] * count
            batch = loader.collate_fn(items)
    except (ConfigError, OSError):
        return 0  # whoever reads the image next names it
    return shared_bytes(batch) * size // count


def fit_workers(loader: DataLoader) -> None:
    """Take loading processes away from a loader if shared memory is too small for their batches; say so.

    Half of what is free is used, as another loader may work at the same time, and the ranks of a machine share it.

    Args:
        loader: Before its first iteration.
    """
    if not loader.num_workers or sys.platform != 'linux' or not SHARED.is_dir() or not len(loader.dataset):  # type: ignore[arg-type]
        return
    free = shutil.disk_usage(SHARED).free
    each = batch_bytes(loader) * (loader.prefetch_factor or 2)
    budget = free // 2 // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    fitting = min(loader.num_workers, budget // each) if each else loader.num_workers
    if fitting == loader.num_workers:
        return
    MMLogger.get_current_instance().warning(
        f'{SHARED} has {free / 2**20:,.1f} MB free, too little for the {loader.num_workers} loading processes of '
        f'{type(loader.dataset).__name__}, each with {each / 2**20:,.1f} MB in it: {fitting} are used. Give the '
        'container more, such as docker run --shm-size=8g.'
    )
    loader.num_workers = fitting
