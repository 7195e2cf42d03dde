"""Image folders and annotation files of millions of entries, listed in seconds."""

import os
import re
import struct
from collections import Counter
from collections.abc import Sequence

import numpy as np
from mmengine import fileio
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset, ImageNet
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError

#: A pickled ``dict(img_path=..., gt_label=...)`` in three parts, which enclose the path and the label.
_HEAD = b'\x80\x02}(X\x08\x00\x00\x00img_pathX'
_MIDDLE = b'X\x08\x00\x00\x00gt_labelJ'
_TAIL = b'u.'


def pickle_infos(paths: Sequence[bytes], labels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Serialise ``dict(img_path=path, gt_label=label)`` for every sample, by filling in a template.

    Args:
        paths: Path of every file, UTF-8.
        labels: Class of every file, fitting into 32 bits.

    Returns:
        All pickles one after the other, uint8, and the end of each, int64: what
        :class:`mmengine.dataset.BaseDataset` makes by a call per sample.
    """
    heads = {length: _HEAD + struct.pack('<I', length) for length in set(map(len, paths))}
    tails = {label: _MIDDLE + struct.pack('<i', label) + _TAIL for label in set(labels)}
    pieces = [heads[len(path)] + path + tails[label] for path, label in zip(paths, labels, strict=True)]
    sizes = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    return np.frombuffer(b''.join(pieces), dtype=np.uint8), np.cumsum(sizes)


def list_files(
    folder: bytes, broken: list[bytes], prefix: bytes = b'', above: frozenset[tuple[int, int]] = frozenset()
) -> list[bytes]:
    """Return the sorted paths, relative to a folder, of all files in it and its sub-folders that are not hidden.

    Args:
        folder: The folder.
        broken: Gets the links that lead nowhere. Links to a folder above are not followed.
        prefix: What stands before every name.
        above: Device and number of the folders above.
    """
    names = []
    status = os.stat(folder)
    own = above | {(status.st_dev, status.st_ino)}
    if len(own) == len(above):
        return []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() and not os.path.exists(entry.path):
                broken.append(prefix + entry.name)
            elif entry.is_dir():
                names += list_files(entry.path, broken, prefix + entry.name + b'/', own)
            elif not entry.name.startswith(b'.') and entry.is_file():
                names.append(prefix + entry.name)
    return sorted(names)


def _utf8(name: bytes) -> bytes:
    """Return the bytes of a file name as Python's pickle writes them, whatever the name is."""
    return name if name.isascii() else os.fsdecode(name).encode('utf-8', 'surrogatepass')


@DATASETS.register_module()
class QuickFolders(CustomDataset):
    """Images in class folders or named in a file: MMPretrain's samples in its order, listed ten times sooner.

    A folder whose name begins with a dot is no class; what is left out is counted and said.

    Labelled images on a local disk are listed this way; everything else is left to MMPretrain. The annotations lie in
    one array, so the cost of a sample does not depend on their number. The arguments are those of
    :class:`mmpretrain.datasets.CustomDataset`.

    Raises:
        ConfigError: If the folders do not fit the classes, if they hold no image, or if a line of the annotation
            file is no path with a class number.
    """

    _fully_initialized: bool

    def full_init(self) -> None:
        """List the samples; done once."""
        local = isinstance(get_file_backend(self.img_prefix), LocalBackend)
        plain = self.with_label and self.serialize_data and not self.filter_cfg
        if not self._fully_initialized and local and plain:
            paths, labels = self._read() if self.ann_file else self._scan()
            if self._indices is not None:
                indices = self._indices
                if isinstance(indices, int):
                    indices = range(len(paths))[:indices] if indices >= 0 else range(len(paths))[indices:]
                paths, labels = [paths[index] for index in indices], [labels[index] for index in indices]
            self.data_bytes, self.data_address = pickle_infos(paths, labels)
            self._fully_initialized = True
        super().full_init()

    def _read(self) -> tuple[list[bytes], list[int]]:
        """Return the paths and labels from ``ann_file``."""
        prefix = os.path.join(self.img_prefix, '').encode('utf-8', 'surrogatepass')
        paths, labels = [], []
        text = fileio.get(self.ann_file).decode('utf-8', 'surrogateescape').removeprefix('\ufeff')  # of some editors
        for number, line in enumerate(text.splitlines(), 1):
            name, _, label = line.strip().rpartition(' ')
            if not re.fullmatch(r'-?\d{1,9}', label) or not name:
                raise ConfigError(
                    f'{type(self).__name__}: line {number} of {self.ann_file} is '
                    f'{line!r}; every line must be a path, a space and a class number.'
                )
            paths.append(prefix + name.encode('utf-8', 'surrogatepass'))
            labels.append(int(label))
        if not paths:
            raise ConfigError(
                f'{type(self).__name__}: {self.ann_file} names no image. Write one per line, with its class.'
            )
        return paths, labels

    def _scan(self) -> tuple[list[bytes], list[int]]:
        """Return the paths and labels from the class folders below ``data_prefix``."""
        root = self.img_prefix
        with os.scandir(root) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))
        known = self.CLASSES
        if known is None:
            self._metainfo['classes'] = tuple(folders)
        elif len(known) != len(folders):
            raise ConfigError(
                f'{type(self).__name__}: {root} has {len(folders)} class folders, but there are {len(known)} classes. '
                'Complete the folder, give the classes that it holds, or say with --data-root where the data is.'
            )
        self.folder_to_idx = {name: index for index, name in enumerate(folders)}
        endings = tuple(ending.encode() for ending in self.extensions)
        paths, labels, empty = [], [], []
        left_out: Counter[str] = Counter()
        for index, name in enumerate(folders):
            start = os.path.join(root, name, '')
            files, broken = [], list[bytes]()
            for file in list_files(os.fsencode(start), broken):
                if file.lower().endswith(endings):
                    files.append(file)
                else:
                    left_out[os.path.splitext(os.fsdecode(file))[1].lower() or 'no ending'] += 1
            left_out.update(['link that leads nowhere'] * len(broken))
            head = _utf8(os.fsencode(start))
            paths += [head + _utf8(file) for file in files]
            labels += [index] * len(files)
            if not files:
                empty.append(name)
        if not paths:
            raise ConfigError(
                f'{type(self).__name__}: no file with one of the endings {", ".join(sorted(self.extensions))} '
                f'in the {len(folders)} folders of {root}. Put the images there, one folder per class.'
            )
        if left_out:
            kinds = ', '.join(f'{count} x {kind}' for kind, count in left_out.most_common())
            MMLogger.get_current_instance().warning(
                f'{type(self).__name__}: {left_out.total()} files of {root} are left out: {kinds}. Images end with '
                f'{", ".join(sorted(self.extensions))}; `extensions` of the data set adds endings.'
            )
        if empty:
            MMLogger.get_current_instance().warning(
                f'{type(self).__name__}: {len(empty)} class folders hold no image, such as {empty[:3]}.'
            )
        return paths, labels


@DATASETS.register_module()
class QuickImageNet(QuickFolders, ImageNet):
    """ImageNet, listed in seconds; the arguments are those of :class:`mmpretrain.datasets.ImageNet`."""
