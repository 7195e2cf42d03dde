"""Tiny data sets in the true on-disk formats: the files a download would give, with a few random images."""

import json
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


def write_coco(root: Path, train: int = 4, val: int = 2) -> None:
    """annotations/instances_{train,val}2017.json and {train,val}2017/*.jpg of COCO 2017.

    80 categories with numbers from 1 to 90, as in the true files. Every image has a coloured rectangle per box; the
    last of each split also has a crowd, whose mask is run-length encoded.
    """
    from mmdet.datasets import CocoDataset

    rng = np.random.default_rng(3)
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    numbers = [number for number in range(1, 91) if number not in gaps]
    categories = [
        {'supercategory': 'thing', 'id': number, 'name': name}
        for number, name in zip(numbers, CocoDataset.METAINFO['classes'], strict=True)
    ]
    (root / 'annotations').mkdir(parents=True)
    for split, count in (('train2017', train), ('val2017', val)):
        images, annotations = [], []
        (root / split).mkdir()
        for i in range(count):
            width, height = (64, 48) if i % 2 else (48, 64)
            name, number = f'{i + 1:012d}.jpg', i + 1
            pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
            images.append(
                {
                    'license': 1,
                    'file_name': name,
                    'coco_url': f'http://images.cocodataset.org/{split}/{name}',
                    'height': height,
                    'width': width,
                    'date_captured': '2013-11-14 17:02:52',
                    'flickr_url': '',
                    'id': number,
                }
            )
            for x, y in ((3, 4), (24, 22)):
                w, h = (int(v) for v in rng.integers(16, 22, 2))
                pixels[y : y + h, x : x + w] = rng.integers(100, 256, 3)
                annotations.append(
                    {
                        'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]],
                        'area': float(w * h),
                        'iscrowd': 0,
                        'image_id': number,
                        'bbox': [float(x), float(y), float(w), float(h)],
                        'category_id': int(rng.choice(numbers)),
                        'id': len(annotations) + 1,
                    }
                )
            cv2.imwrite(str(root / split / name), pixels)
        annotations.append(
            {
                'segmentation': {'counts': [0, 5 * height, height * (width - 5)], 'size': [height, width]},
                'area': float(5 * height),
                'iscrowd': 1,
                'image_id': count,
                'bbox': [0.0, 0.0, 5.0, float(height)],
                'category_id': 1,
                'id': 900100000000 + count,
            }
        )
        content = {
            'info': {'description': 'COCO 2017 Dataset', 'version': '1.0', 'year': 2017},
            'licenses': [{'url': 'http://creativecommons.org/licenses/by/2.0/', 'id': 1, 'name': 'Attribution'}],
            'images': images,
            'annotations': annotations,
            'categories': categories,
        }
        (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
