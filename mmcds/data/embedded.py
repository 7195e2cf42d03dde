"""The real images that come with this package: 5,000 training and 2,000 test images of Fashion-MNIST."""

import warnings
from pathlib import Path

from mmpretrain.datasets import FashionMNIST
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError
from mmcds.data.in_memory import InMemory


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
