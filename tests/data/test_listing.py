"""Quick listings hold MMPretrain's samples in MMPretrain's order."""

import os
import pickle

import pytest
from mmengine.logging import MMLogger
from mmpretrain.datasets import CustomDataset, ImageNet

from mmcds.core.errors import ConfigError
from mmcds.data import QuickFolders, QuickImageNet
from mmcds.data.listing import pickle_infos
from mmcds.openmmlab.work_dir import write_whole

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


def test_what_is_left_out_is_said_and_hidden_folders_are_no_classes(folder, caplog):
    root = folder / 'train'
    (root / '.ipynb_checkpoints').mkdir()
    (root / '.ipynb_checkpoints' / '2-checkpoint.png').touch()
    for name in ('a/1.gif', 'a/2.gif', 'b/3.webp', 'b/README'):
        (root / name).touch()
    (root / 'a/gone.png').symlink_to(root / 'nowhere.png')
    (root / 'a/loop.png').symlink_to('loop.png')
    (root / 'b/linked.png').symlink_to(root / 'a/2.png')
    with caplog.at_level('WARNING', logger='mmengine'):
        logger = MMLogger.get_current_instance()
        logger.addHandler(caplog.handler)
        dataset = QuickFolders(data_root=str(folder), data_prefix='train')
        logger.removeHandler(caplog.handler)
    assert dataset.metainfo['classes'] == ('a', 'b', 'empty', 'ü ñ')
    names = [info['img_path'].partition('/train/')[2] for info in infos(dataset)]
    assert 'b/linked.png' in names
    assert not any('gone' in name or 'loop' in name for name in names)
    (said,) = [record.message for record in caplog.records if 'left out' in record.message]
    assert '2 x .gif' in said
    assert '1 x .webp' in said
    assert '2 x link that leads nowhere' in said
    (root / 'a/up').symlink_to(root, target_is_directory=True)
    more = [info['img_path'] for info in infos(QuickFolders(data_root=str(folder), data_prefix='train'))]
    assert any('/a/up/b/' in name for name in more), 'a link to another folder is followed'
    assert not any('/up/a/' in name for name in more), 'but not in circles'


def test_a_list_may_begin_with_a_mark_and_must_name_images(folder):
    (folder / 'list.txt').write_bytes('\ufeffa/2.png 0\nb/x_9.jpg 1\n'.encode())
    dataset = QuickFolders(data_root=str(folder), data_prefix='train', ann_file='list.txt')
    assert infos(dataset)[0]['img_path'].endswith('train/a/2.png')
    for text, message in (('', 'names no image'), ('a --1', "line 1 .*'a --1'"), ('a 99999999999', 'line 1')):
        (folder / 'list.txt').write_text(text)
        with pytest.raises(ConfigError, match=message):
            QuickFolders(data_root=str(folder), data_prefix='train', ann_file='list.txt')


def test_a_list_may_name_files_of_any_bytes(folder):
    name = os.fsdecode(b'a/\xff\xfe \xc3\xbc.png')
    write_whole(folder / 'list.txt', f'{name} 0\n')
    dataset = QuickFolders(data_root=str(folder), data_prefix='train', ann_file='list.txt')
    assert infos(dataset)[0]['img_path'] == f'{folder}/train/{name}'
