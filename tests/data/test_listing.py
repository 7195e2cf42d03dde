"""Quick listings hold MMPretrain's samples in MMPretrain's order."""

import pickle

import pytest
from mmpretrain.datasets import CustomDataset, ImageNet

from mmcds.core.errors import ConfigError
from mmcds.data import QuickFolders, QuickImageNet
from mmcds.data.listing import pickle_infos

NAMES = [
    'b/x_10.JPEG',
    'b/x_9.jpg',
    'b/.hidden.jpg',
    'b/notes.txt',
    'a/deep/er/1.png',
    'a/2.png',
    'ü ñ/é.PNG',
    'a/a.b/c.bmp',
]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        (tmp_path / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'train' / name).touch()
    (tmp_path / 'train' / 'empty').mkdir()
    (tmp_path / 'train' / 'stray.jpg').touch()
    return tmp_path


def infos(dataset) -> list[dict]:
    return [dataset.get_data_info(index) for index in range(len(dataset))]


@pytest.mark.parametrize('kwargs', [{}, dict(indices=3), dict(indices=-2), dict(indices=[4, 0]), dict(lazy_init=True)])
def test_folders_give_the_samples_and_classes_of_the_host(folder, kwargs):
    ours, theirs = (
        kind(data_root=str(folder), data_prefix='train', **kwargs) for kind in (QuickFolders, CustomDataset)
    )
    for dataset in (ours, theirs):
        dataset.full_init()
    assert infos(ours) == infos(theirs)
    assert ours.metainfo == theirs.metainfo
    assert ours.folder_to_idx == theirs.folder_to_idx
    if not kwargs:
        assert len(ours) == 6
        assert infos(ours.get_subset([1, 2])) == infos(theirs.get_subset([1, 2]))


def test_a_file_gives_the_samples_of_the_host(folder):
    (folder / 'list.txt').write_text('a/2.png 0\nwith a blank/é.jpg 12\nb/x_9.jpg -1\n', encoding='utf-8')
    ours, theirs = (
        kind(data_root=str(folder), data_prefix='train', ann_file='list.txt') for kind in (QuickFolders, CustomDataset)
    )
    assert infos(ours) == infos(theirs)


def test_what_is_unlabelled_or_not_serialised_is_left_to_the_host(folder):
    for kwargs in (dict(with_label=False), dict(serialize_data=False)):
        ours, theirs = (
            kind(data_root=str(folder), data_prefix='train', **kwargs) for kind in (QuickFolders, CustomDataset)
        )
        assert infos(ours) == infos(theirs)


def test_imagenet_is_the_one_of_the_host(data_root):
    ours, theirs = (kind(data_root=str(data_root / 'imagenet'), split='train') for kind in (QuickImageNet, ImageNet))
    assert infos(ours) == infos(theirs)
    assert ours.metainfo == theirs.metainfo
    assert (ours.get_gt_labels() == theirs.get_gt_labels()).all()


def test_a_name_that_is_no_text_survives():
    name = b'/data/\xff\xfe.jpg'
    from mmcds.data.listing import _utf8

    data, ends = pickle_infos([_utf8(name), _utf8('ü'.encode())], [2**31 - 1, -1])
    first, second = pickle.loads(data[: ends[0]].tobytes()), pickle.loads(data[ends[0] : ends[1]].tobytes())
    assert first == dict(img_path=name.decode('utf-8', 'surrogateescape'), gt_label=2**31 - 1)
    assert second == dict(img_path='ü', gt_label=-1)


def test_rejects_folders_that_do_not_fit_and_lines_without_a_class(folder, tmp_path):
    with pytest.raises(ConfigError, match=r'train has 4 class folders, but there are 2 classes'):
        QuickFolders(data_root=str(folder), data_prefix='train', classes=['a', 'b'])
    with pytest.raises(ConfigError, match=r'no file with one of the endings \.gif in the 4 folders'):
        QuickFolders(data_root=str(folder), data_prefix='train', extensions=('.gif',))
    (folder / 'list.txt').write_text('a/2.png 0\na/3.png\n')
    with pytest.raises(ConfigError, match=r"line 2 of .*list\.txt is 'a/3.png'; every line must be a path, a space"):
        QuickFolders(data_root=str(folder), data_prefix='train', ann_file='list.txt')
