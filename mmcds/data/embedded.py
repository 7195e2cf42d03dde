"""The real images that come with this package: 7,000 of Fashion-MNIST, grey, and 3,288 emoji, in colour."""

import warnings
from pathlib import Path

import numpy as np
from mmpretrain.datasets import BaseDataset, FashionMNIST
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError
from mmcds.data.in_memory import InMemory

EMOJI = Path(__file__).parent / 'emoji' / 'emoji32.npz'
#: Splits of the emoji, as numbered in the file.
SPLITS = ('train', 'val', 'test')


@DATASETS.register_module()
class EmbeddedFashionMNIST(InMemory, FashionMNIST):
    """The first 500 training and 200 test images of every class of Fashion-MNIST, in the original order.

    Read by MMPretrain's class from ``mmcds/data/fashion_mnist``, where the licence (MIT) lies beside them.
    28 x 28, grey, ten classes; see :class:`InMemory`. https://arxiv.org/abs/1708.07747.

    Args:
        split: ``'train'`` or ``'test'``; it alone decides which images are read (MMPretrain looks at
            ``test_mode`` instead).
        data_root: Folder with the four uncompressed IDX files; give one to use the full data set instead.
        **kwargs: Other arguments of :class:`mmpretrain.datasets.FashionMNIST`.
    """

    def __init__(
        self, split: str = 'train', data_root: str = str(Path(__file__).parent / 'fashion_mnist'), **kwargs
    ) -> None:
        if kwargs.pop('test_mode', split == 'test') != (split == 'test'):
            raise ConfigError(
                f'EmbeddedFashionMNIST: split is {split!r}, but test_mode says the opposite. Leave '
                'test_mode out; split decides.'
            )
        super().__init__(data_root=data_root, split=split, test_mode=split == 'test', download=False, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the IDX files without MMPretrain's warnings about how it copies arrays."""
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
            warnings.filterwarnings('ignore', message="__array__ implementation doesn't accept a copy keyword")
            return super().load_data_list()


@DATASETS.register_module()
class EmbeddedEmoji(InMemory, BaseDataset):
    """1,096 emoji, each drawn in three styles; 32 x 32, RGB, so pipelines begin with ``array_order='rgb'``.

    Read from ``mmcds/data/emoji``, whose README says how they were made and which licence each style has.

    Args:
        split: ``'train'``, ``'val'``, or ``'test'``.
        classes: ``'category'`` (8 of them), ``'subgroup'`` (58) or ``'concept'``: 1,096, the emoji themselves.
        held_out: What no training image shows: the ``'style'`` of the test images, Twemoji; or their ``'concept'``, so
            that they are other emoji of the same classes.
        **kwargs: Other arguments of :class:`mmpretrain.datasets.BaseDataset`.

    Raises:
        ConfigError: If an argument is none of these, or if the classes themselves are held out.
    """

    def __init__(self, split: str = 'train', classes: str = 'subgroup', held_out: str = 'style', **kwargs) -> None:
        for name, value, known in (
            ('split', split, SPLITS),
            ('classes', classes, ('category', 'subgroup', 'concept')),
            ('held_out', held_out, ('style', 'concept')),
        ):
            if value not in known:
                raise ConfigError(f'EmbeddedEmoji: {name} is {value!r}; choose {", ".join(map(repr, known))}.')
        if classes == held_out:
            raise ConfigError(
                'EmbeddedEmoji: classes and held_out are both concept, so the test has none of the trained classes. '
                "Set held_out to 'style'."
            )
        self._fields = f'split_{held_out}', classes
        self._split = split
        kwargs.setdefault('test_mode', split != 'train')
        with np.load(EMOJI) as stored:
            kwargs.setdefault('metainfo', dict(classes=tuple(stored[f'{classes}_names'].tolist())))
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the images of the split, in the order of the file."""
        with np.load(EMOJI) as stored:
            splits, classes = (stored[field] for field in self._fields)
            rows = np.flatnonzero(splits == SPLITS.index(self._split))
            images = stored['images'][rows]
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, classes[rows], strict=True)]
