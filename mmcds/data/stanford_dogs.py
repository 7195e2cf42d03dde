"""Stanford Dogs, the fine-grained set of Tables 5 and 6 that MMPretrain lacks."""

import struct
import zlib
from pathlib import Path

import mat4py
from mat4py.loadmat import ParseError
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError

_GET = 'Unpack images.tar and lists.tar of the official site there'


@DATASETS.register_module()
class StanfordDogs(BaseDataset):
    """120 breeds of dogs: 12,000 training and 8,580 test images.

    The official archives of http://vision.stanford.edu/aditya86/ImageNetDogs, unpacked into one folder::

        stanford_dogs
        ├── Images                        (images.tar)
        │   ├── n02085620-Chihuahua
        │   │   ├── n02085620_10074.jpg
        │   │   └── ...
        │   └── ...
        ├── train_list.mat                (lists.tar)
        └── test_list.mat

    A list holds ``file_list``, paths below ``Images``, and ``labels``, from 1 in the order of the folders; both are
    columns. Labels of the samples start at 0. The classes are the names of the folders without their WordNet number.

    Args:
        data_root: The folder above.
        split: ``'train'`` or ``'test'``.
        **kwargs: Other arguments of :class:`mmpretrain.datasets.BaseDataset`; ``test_mode`` follows from the split.

    Raises:
        ConfigError: If the split is unknown, if ``Images`` or the list is missing, or if the list cannot be read,
            holds other variables, or gives folders and labels that contradict each other.
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs) -> None:
        if split not in ('train', 'test'):
            raise ConfigError(f"StanfordDogs: split is {split!r}; choose 'train' or 'test'.")
        super().__init__(
            ann_file=f'{split}_list.mat',
            data_root=data_root,
            data_prefix='Images',
            test_mode=split == 'test',
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """Read the list of the split; the classes become part of the meta information."""
        root = Path(self.data_root)
        if not Path(self.img_prefix).is_dir() or not Path(self.ann_file).is_file():
            found = sorted(path.name for path in root.iterdir())[:8] if root.is_dir() else 'nothing'
            raise ConfigError(
                f'StanfordDogs: {root} needs the folder Images and the file {Path(self.ann_file).name}, but holds '
                f'{found}. {_GET}.'
            )
        try:
            content = mat4py.loadmat(self.ann_file)
        except (ParseError, struct.error, zlib.error, IndexError, KeyError, TypeError) as error:
            raise ConfigError(
                f'StanfordDogs: {self.ann_file} cannot be read as a MATLAB file of version 5 ({error}). {_GET} again.'
            ) from error
        files, labels = _column(content.get('file_list')), _column(content.get('labels'))
        if not files or len(files) != len(labels):
            raise ConfigError(
                f'StanfordDogs: {self.ann_file} needs file_list and labels of equal length, but has '
                f'{len(files)} and {len(labels)} entries; its variables are {sorted(content)}. {_GET} again.'
            )
        folders = {int(label): Path(file).parent.name for file, label in zip(files, labels, strict=True)}
        for file, label in zip(files, labels, strict=True):
            if folders[int(label)] != Path(file).parent.name:
                raise ConfigError(
                    f'StanfordDogs: {self.ann_file} gives {file} the label {int(label)}, which is that of '
                    f'{folders[int(label)]} too. {_GET} again.'
                )
        if sorted(folders) != list(range(1, len(folders) + 1)):
            raise ConfigError(
                f'StanfordDogs: {self.ann_file} has {len(folders)} labels from {min(folders)} to {max(folders)}; they '
                f'must be 1 to {len(folders)}. {_GET} again.'
            )
        self._metainfo.setdefault('classes', tuple(folders[label].split('-', 1)[-1] for label in sorted(folders)))
        return [
            dict(img_path=f'{self.img_prefix}/{file}', gt_label=int(label) - 1)
            for file, label in zip(files, labels, strict=True)
        ]


def _column(values: list | None) -> list:
    """Return the entries of a MATLAB column or row, whose rows are lists of one."""
    return [value[0] if isinstance(value, list) else value for value in values or ()]
