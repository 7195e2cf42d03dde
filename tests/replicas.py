"""Tiny data sets in the true on-disk formats: the files a download would give, with a few random images."""

import pickle
from pathlib import Path

import cv2
import numpy as np


def _pickle(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def _rows(rng: np.random.Generator, count: int) -> np.ndarray:
    """CIFAR stores an image as 3,072 bytes: the red plane, then green, then blue."""
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(root: Path, per_batch: int = 4, test: int = 6) -> None:
    """cifar-10-batches-py/{data_batch_1..5, test_batch, batches.meta}."""
    rng = np.random.default_rng(0)
    folder = root / 'cifar-10-batches-py'
    for name, count in [(f'data_batch_{i}', per_batch) for i in range(1, 6)] + [('test_batch', test)]:
        _pickle(
            folder / name,
            {
                'batch_label': name,
                'data': _rows(rng, count),
                'labels': [int(v) for v in rng.integers(0, 10, count)],
                'filenames': [f'{name}_{i}.png' for i in range(count)],
            },
        )
    names = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
    _pickle(folder / 'batches.meta', {'num_cases_per_batch': per_batch, 'label_names': names, 'num_vis': 3072})


def write_cifar100(root: Path, train: int = 20, test: int = 6) -> None:
    """cifar-100-python/{train, test, meta}."""
    rng = np.random.default_rng(1)
    folder = root / 'cifar-100-python'
    for name, count in (('train', train), ('test', test)):
        _pickle(
            folder / name,
            {
                'batch_label': name,
                'data': _rows(rng, count),
                'fine_labels': [int(v) for v in rng.integers(0, 100, count)],
                'coarse_labels': [int(v) for v in rng.integers(0, 20, count)],
                'filenames': [f'{name}_{i}.png' for i in range(count)],
            },
        )
    _pickle(
        folder / 'meta',
        {
            'fine_label_names': [f'class_{i}' for i in range(100)],
            'coarse_label_names': [f'group_{i}' for i in range(20)],
        },
    )


def write_imagenet(root: Path, classes: int = 1000, val: int = 6) -> None:
    """{train, val}/nXXXXXXXX/*.JPEG with one training image per class; images of several sizes, some grey."""
    rng = np.random.default_rng(2)
    for split, count in (('train', classes), ('val', classes)):
        for i in range(count):
            folder = root / split / f'n{i:08d}'
            folder.mkdir(parents=True, exist_ok=True)
            if split == 'val' and i >= val:
                (folder / 'empty.JPEG').symlink_to(root / 'val' / 'n00000000' / 'n00000000_0.JPEG')
                continue
            size = (int(rng.integers(40, 90)), int(rng.integers(40, 90))) + ((3,) if i % 10 else ())
            cv2.imwrite(str(folder / f'n{i:08d}_0.JPEG'), rng.integers(0, 256, size, dtype=np.uint8))
