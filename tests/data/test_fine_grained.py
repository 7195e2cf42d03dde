"""The fine-grained sets are read from their official layouts, labels from 0; what is wrong with dogs is named."""

import shutil

import numpy as np
import pytest
import replicas
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from scipy.io import savemat

from mmcds.core.errors import ConfigError
from mmcds.data import StanfordDogs
from mmcds.paper.tables import FINE_GRAINED
from mmcds.resources import resources

#: Images of a class in the replica, for training and for test.
PER_CLASS = dict(cub200=(1, 1), cars=(1, 1), flowers=(2, 1), dogs=(1, 1), aircraft=(2, 1))


def build(name, loader, **changes):
    config = Config.fromfile(resources() / f'configs/_base_/datasets/{name}.py')
    return DATASETS.build({**config[loader].dataset, **changes})


@pytest.mark.parametrize('name', FINE_GRAINED)
def test_every_class_has_its_images_of_either_split_and_no_image_is_in_both(name, data_root, monkeypatch):
    monkeypatch.setenv('MMCDS_DATA_ROOT', str(data_root))
    config = Config.fromfile(resources() / f'configs/_base_/datasets/{name}.py')
    seen = []
    for loader, count in zip(('train_dataloader', 'test_dataloader'), PER_CLASS[name], strict=True):
        dataset = build(name, loader)
        labels = dataset.get_gt_labels()
        assert (np.bincount(labels) == count).all()
        assert len(np.bincount(labels)) == config.num_classes == config.data_preprocessor.num_classes
        assert dataset.test_mode == (loader == 'test_dataloader')
        assert dataset[0]['inputs'].shape[-2:] == (224, 224)
        seen += [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    assert len(set(seen)) == len(seen)


def test_cars_are_read_from_the_devkit_too(tmp_path):
    replicas.write_cars(tmp_path, train=2, test=1, devkit=True)
    for loader, split, count in (('train_dataloader', 'train', 2), ('val_dataloader', 'test', 1)):
        dataset = build('cars', loader, data_root=str(tmp_path))
        assert (np.bincount(dataset.get_gt_labels(), minlength=196) == count).all()
        assert dataset.get_data_info(0)['img_path'] == f'{tmp_path}/cars_{split}/00001.jpg'


# ---- Stanford Dogs


@pytest.fixture
def dogs(tmp_path):
    replicas.write_dogs(tmp_path, train=3, test=2, classes=5)
    return tmp_path


def test_labels_of_dogs_follow_the_folders_from_zero(dogs):
    for split, count in (('train', 3), ('test', 2)):
        dataset = StanfordDogs(data_root=str(dogs), split=split)
        assert (np.bincount(dataset.get_gt_labels()) == [count] * 5).all()
        folders = sorted(path.name for path in (dogs / 'Images').iterdir())
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            assert info['img_path'].split('/')[-2] == folders[info['gt_label']]
        assert dataset.metainfo['classes'][:2] == ('Chihuahua', 'flat-coated_breed_1')
        assert dataset.test_mode == (split == 'test')


def rewrite(root, **changes):
    files = replicas._cells([f'n{i}-Name_{i}/{i}.jpg' for i in (1, 1, 2)], (3, 1))
    savemat(root / 'train_list.mat', {**dict(file_list=files, labels=np.array([[1], [1], [2]])), **changes})


@pytest.mark.parametrize(
    'spoil, message',
    [
        (
            lambda root: shutil.rmtree(root / 'Images'),
            r"needs the folder Images .*holds \['file_list.mat', .*images\.tar",
        ),
        (lambda root: (root / 'train_list.mat').unlink(), r'the file train_list\.mat, but holds .*lists\.tar'),
        (lambda root: shutil.rmtree(root), r'needs the folder Images .*but holds nothing'),
        (lambda root: (root / 'train_list.mat').write_bytes(b'<html>' * 40), 'cannot be read as a MATLAB file'),
        (lambda root: (root / 'train_list.mat').write_bytes(b''), 'cannot be read as a MATLAB file'),
        (lambda root: rewrite(root, labels=np.array([[1], [2]])), 'equal length, but has 3 and 2 entries'),
        (lambda root: savemat(root / 'train_list.mat', dict(x=1)), r"has 0 and 0 entries; its variables are \['x'\]"),
        (
            lambda root: rewrite(root, labels=np.array([[1], [2], [2]])),
            r'n1-Name_1/1\.jpg the label 2, .* of n2-Name_2',
        ),
        (lambda root: rewrite(root, labels=np.array([[0], [0], [1]])), r'2 labels from 0 to 1; they must be 1 to 2'),
    ],
)
def test_what_is_wrong_with_dogs_is_named(spoil, message, dogs):
    spoil(dogs)
    with pytest.raises(ConfigError, match=rf'StanfordDogs: {dogs}.*{message}'):
        StanfordDogs(data_root=str(dogs))


def test_an_unknown_split_of_dogs_is_refused():
    with pytest.raises(ConfigError, match="split is 'val'; choose 'train' or 'test'"):
        StanfordDogs(data_root='anywhere', split='val')


def test_a_truncated_list_of_dogs_is_refused(dogs):
    whole = (dogs / 'test_list.mat').read_bytes()
    for length in (130, 200, len(whole) // 2, len(whole) - 5):
        (dogs / 'test_list.mat').write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r'cannot be read as a MATLAB|needs file_list and labels'):
            StanfordDogs(data_root=str(dogs), split='test')
