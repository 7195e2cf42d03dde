"""Tiny data sets in the true on-disk formats: the files a download would give, with a few random images."""

import itertools
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
from mmpretrain.datasets.categories import CUB_CATEGORIES, FGVCAIRCRAFT_CATEGORIES, STANFORDCARS_CATEGORIES
from scipy.io import savemat


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


# ---- the fine-grained sets: every class has the same number of images, whose bytes repeat


def _write_images(paths: list[Path], seed: int) -> None:
    """Four JPEG files of several sizes, one of them grey, over and over."""
    rng = np.random.default_rng(seed)
    shapes = [(48, 64, 3), (80, 60, 3), (50, 50), (44, 90, 3)]
    encoded = [cv2.imencode('.jpg', rng.integers(0, 256, shape, dtype=np.uint8))[1].tobytes() for shape in shapes]
    for path, content in zip(paths, itertools.cycle(encoded)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _savemat(path: Path, content: dict) -> None:
    """A compressed file of version 5, as MATLAB writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, content, do_compression=True)


def _cells(values: list[str], shape: tuple[int, int]) -> np.ndarray:
    """A MATLAB cell array of strings."""
    array = np.empty(shape, dtype=object)
    array.flat = values
    return array


def _structs(rows: list[tuple], fields: list[str]) -> np.ndarray:
    """A MATLAB row of structs."""
    return np.array([tuple(row) for row in rows], dtype=[(field, object) for field in fields])[None]


def write_cub(root: Path, train: int = 1, test: int = 1) -> None:
    """images/NNN.Name/*.jpg and the tables images, image_class_labels, train_test_split and classes, all from 1."""
    names = [f'{i:03d}.{name}' for i, name in enumerate(CUB_CATEGORIES, 1)]
    rows = [
        (f'{name}/{name[4:]}_{i:04d}_{i}.jpg', label, int(i < train))
        for label, name in enumerate(names, 1)
        for i in range(train + test)
    ]
    _write_images([root / 'images' / file for file, *_ in rows], seed=4)
    columns = zip(*rows, strict=True)
    for name, column in zip(('images', 'image_class_labels', 'train_test_split'), columns, strict=True):
        (root / f'{name}.txt').write_text(''.join(f'{i} {value}\n' for i, value in enumerate(column, 1)))
    (root / 'classes.txt').write_text(''.join(f'{i} {name}\n' for i, name in enumerate(names, 1)))


def write_cars(root: Path, train: int = 1, test: int = 1, devkit: bool = False) -> None:
    """car_ims/*.jpg and cars_annos.mat; with ``devkit`` the other official form, cars_{train,test}/*.jpg."""
    rows = [
        (8, 9, 40, 41, label, int(i >= train))
        for label in range(1, len(STANFORDCARS_CATEGORIES) + 1)
        for i in range(train + test)
    ]
    box = ['bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2', 'class']
    if not devkit:
        files = [f'car_ims/{i:06d}.jpg' for i in range(1, len(rows) + 1)]
        named = [(file, *row) for file, row in zip(files, rows, strict=True)]
        classes = _cells(list(STANFORDCARS_CATEGORIES), (1, len(STANFORDCARS_CATEGORIES)))
        annotations = _structs(named, ['relative_im_path', *box, 'test'])
        _savemat(root / 'cars_annos.mat', dict(annotations=annotations, class_names=classes))
        _write_images([root / file for file in files], seed=5)
        return
    for split, name in ((0, 'cars_train_annos'), (1, 'cars_test_annos_withlabels')):
        found = [row[:5] for row in rows if row[5] == split]
        files = [f'{i:05d}.jpg' for i in range(1, len(found) + 1)]
        named = [(*row, file) for file, row in zip(files, found, strict=True)]
        _savemat(root / 'devkit' / f'{name}.mat', dict(annotations=_structs(named, [*box, 'fname'])))
        _write_images([root / f'cars_{"test" if split else "train"}' / file for file in files], seed=5)


def write_flowers(root: Path) -> None:
    """jpg/image_NNNNN.jpg, imagelabels.mat and setid.mat; one image per class in train, val and test each."""
    labels = np.repeat(np.arange(1, 103), 3)
    numbers = np.arange(1, len(labels) + 1)
    _write_images([root / 'jpg' / f'image_{number:05d}.jpg' for number in numbers], seed=6)
    _savemat(root / 'imagelabels.mat', dict(labels=labels[None].astype(np.uint8)))
    splits = {key: numbers[place::3][None].astype(np.uint16) for place, key in enumerate(('trnid', 'valid', 'tstid'))}
    _savemat(root / 'setid.mat', splits)


def write_dogs(root: Path, train: int = 1, test: int = 1, classes: int = 120) -> None:
    """Images/nXXXXXXXX-Name/*.jpg and {train,test,file}_list.mat with columns of files and of labels from 1."""
    folders = ['n02085620-Chihuahua', *(f'n{2085620 + i:08d}-flat-coated_breed_{i}' for i in range(1, classes))]
    splits: dict[str, list[tuple[str, int]]] = dict(train=[], test=[])
    for label, folder in enumerate(folders, 1):
        for i in range(train + test):
            splits['train' if i < train else 'test'].append((f'{folder}/{folder.split("-")[0]}_{i}.jpg', label))
    for name, rows in {**splits, 'file': splits['train'] + splits['test']}.items():
        files, shape = [file for file, _ in rows], (len(rows), 1)
        columns = dict(
            file_list=_cells(files, shape),
            annotation_list=_cells([file.removesuffix('.jpg') for file in files], shape),
            labels=np.array([[label] for _, label in rows], dtype=np.float64),
        )
        _savemat(root / f'{name}_list.mat', columns)
        _write_images([root / 'Images' / file for file in files], seed=7)


def write_aircraft(root: Path) -> None:
    """data/images/NNNNNNN.jpg and data/images_variant_*.txt; one image per variant in train, val and test each."""
    splits: dict[str, list[str]] = dict(train=[], val=[], test=[])
    paths = []
    for place, name in enumerate(FGVCAIRCRAFT_CATEGORIES):
        for i, lines in enumerate(splits.values()):
            number = f'{3 * place + i:07d}'
            paths.append(root / 'data/images' / f'{number}.jpg')
            lines.append(f'{number} {name}')
    _write_images(paths, seed=8)
    for split, lines in {**splits, 'trainval': splits['train'] + splits['val']}.items():
        (root / 'data' / f'images_variant_{split}.txt').write_text('\n'.join(lines) + '\n')
    (root / 'data/variants.txt').write_text('\n'.join(FGVCAIRCRAFT_CATEGORIES) + '\n')
