"""Which labels are kept, and that no other label ever reaches the model."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.dataset import ConcatDataset
from mmpretrain.datasets import CustomDataset

from mmcds.core.errors import ConfigError
from mmcds.data import EmbeddedFashionMNIST, PartiallyLabelledDataset
from mmcds.data.partially_labelled import keep_per_class, sample_identity

PIPELINE = [dict(type='mmpretrain.LoadImage'), dict(type='mmpretrain.PackInputs')]


def write_folder(root: Path, sizes: dict[str, int], labelled: bool = True) -> Path:
    rng = np.random.default_rng(len(sizes))
    for name, size in sizes.items():
        folder = root / name if labelled else root
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(size):
            cv2.imwrite(str(folder / f'{name}_{index}.png'), rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return root


@pytest.fixture
def folder(tmp_path) -> CustomDataset:
    write_folder(tmp_path / 'labelled', dict(cat=10, dog=20, eel=5))
    return CustomDataset(data_root=str(tmp_path / 'labelled'), pipeline=PIPELINE)


def kept_names(dataset: PartiallyLabelledDataset) -> set[str]:
    return {
        Path(dataset.get_data_info(index)['img_path']).name for index in np.flatnonzero(dataset.get_gt_labels() >= 0)
    }


def test_a_fraction_keeps_that_share_of_every_class_with_the_right_labels(folder):
    dataset = PartiallyLabelledDataset(folder, fraction=0.4)
    kept = dataset.get_gt_labels()
    assert [int((kept == label).sum()) for label in range(3)] == [4, 8, 2]
    assert set(kept[kept >= 0] - folder.get_gt_labels()[kept >= 0]) == {0}
    assert len(dataset) == 35
    assert (kept == -1).sum() == 21


def test_every_class_keeps_at_least_one_label(folder):
    assert len(kept_names(PartiallyLabelledDataset(folder, fraction=0.01))) == 3


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_files(folder, tmp_path):
    first = kept_names(PartiallyLabelledDataset(folder, fraction=0.4, seed=3))
    names = [
        f'{["cat", "dog", "eel"][info["gt_label"]]}/{Path(info["img_path"]).name} {info["gt_label"]}'
        for info in (folder.get_data_info(index) for index in range(len(folder)))
    ]
    (tmp_path / 'reversed.txt').write_text('\n'.join(reversed(names)))
    other = CustomDataset(
        data_root=str(tmp_path / 'labelled'),
        ann_file=str(tmp_path / 'reversed.txt'),
        pipeline=PIPELINE,
        classes=folder.metainfo['classes'],
    )
    assert [other.get_data_info(0)['img_path']] != [folder.get_data_info(0)['img_path']]
    assert kept_names(PartiallyLabelledDataset(other, fraction=0.4, seed=3)) == first
    assert kept_names(PartiallyLabelledDataset(folder, fraction=0.4, seed=4)) != first


def test_the_choice_does_not_depend_on_where_the_data_lies(folder, tmp_path):
    (tmp_path / 'labelled').rename(tmp_path / 'moved')
    moved = CustomDataset(data_root=str(tmp_path / 'moved'), pipeline=PIPELINE)
    assert kept_names(PartiallyLabelledDataset(moved, per_class=3)) == kept_names(
        PartiallyLabelledDataset(folder, per_class=3)
    )


def test_the_choice_among_arrays_follows_the_pixels():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 3, 3), dtype=np.uint8), np.repeat([0, 1], 20)
    order = rng.permutation(40)
    identities = [sample_identity(dict(img=image)) for image in images]
    kept = keep_per_class(labels, identities, {0: 5, 1: 5}, seed=0)
    shuffled = keep_per_class(labels[order], [identities[index] for index in order], {0: 5, 1: 5}, seed=0)
    assert (shuffled == kept[order]).all()


def test_the_labels_of_ten_percent_are_among_those_of_twenty(folder):
    few, more = (kept_names(PartiallyLabelledDataset(folder, fraction=share)) for share in (0.2, 0.6))
    assert few < more


def test_all_labels_stay_without_a_choice_and_with_the_whole_fraction(folder):
    for dataset in (PartiallyLabelledDataset(folder), PartiallyLabelledDataset(folder, fraction=1.0)):
        assert (dataset.get_gt_labels() == folder.get_gt_labels()).all()


def test_a_sample_arrives_with_its_kept_label_or_minus_one(folder):
    dataset = PartiallyLabelledDataset(folder, per_class=2)
    for index in range(0, 35, 3):
        sample = dataset[index]['data_samples']
        assert int(sample.gt_label) == dataset.get_gt_labels()[index]
        assert sample.sample_idx == index


def test_a_file_names_the_labelled_samples_by_path_or_by_name(folder, tmp_path):
    (tmp_path / 'list.txt').write_text('cat/cat_3.png\ndog_11.png\n\n')
    dataset = PartiallyLabelledDataset(folder, labelled_file=str(tmp_path / 'list.txt'))
    assert kept_names(dataset) == {'cat_3.png', 'dog_11.png'}


def test_a_file_names_arrays_by_index(tmp_path):
    (tmp_path / 'list.txt').write_text('7\n4999\n')
    dataset = PartiallyLabelledDataset(
        EmbeddedFashionMNIST(pipeline=PIPELINE), labelled_file=str(tmp_path / 'list.txt')
    )
    assert np.flatnonzero(dataset.get_gt_labels() >= 0).tolist() == [7, 4999]


def test_a_second_folder_follows_without_labels_and_with_the_first_ones_pipeline(folder, tmp_path):
    write_folder(tmp_path / 'more', dict(fox=6), labelled=False)
    dataset = PartiallyLabelledDataset(
        folder,
        per_class=1,
        unlabelled=dict(type='mmpretrain.CustomDataset', data_root=str(tmp_path / 'more'), with_label=False),
    )
    assert len(dataset) == 41
    assert (dataset.get_gt_labels()[35:] == -1).all()
    last = dataset[40]
    assert last['inputs'].shape == (3, 4, 4)
    assert (int(last['data_samples'].gt_label), last['data_samples'].sample_idx) == (-1, 40)
    assert 'fox' in last['data_samples'].img_path


def test_an_unreadable_image_is_replaced_by_one_of_the_same_kind(folder):
    pipeline = [dict(type='mmpretrain.LoadImage', max_unreadable=10), dict(type='mmpretrain.PackInputs')]
    dataset = PartiallyLabelledDataset(CustomDataset(data_root=folder.data_root, pipeline=pipeline), per_class=1)
    for index in [*np.flatnonzero(dataset.get_gt_labels() >= 0)[:1], *np.flatnonzero(dataset.get_gt_labels() < 0)[:3]]:
        Path(dataset.get_data_info(int(index))['img_path']).write_bytes(b'broken')
        sample = dataset[int(index)]['data_samples']
        assert sample.sample_idx != index
        assert (int(sample.gt_label) < 0) == (dataset.get_gt_labels()[index] < 0)
        assert int(sample.gt_label) == dataset.get_gt_labels()[sample.sample_idx], 'no label may leak'


def test_without_any_readable_image_it_stops(folder):
    dataset = PartiallyLabelledDataset(
        CustomDataset(data_root=folder.data_root, pipeline=[lambda results: None], max_refetch=2)
    )
    with pytest.raises(RuntimeError, match='no readable image in 3 tries'):
        dataset[0]


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(fraction=0.1, per_class=2), 'are given together; choose one'),
        (dict(fraction=0.0), r'fraction is 0.0; it must lie in \(0, 1\]'),
        (dict(fraction=1.5), r'fraction is 1.5; it must lie in \(0, 1\]'),
        (dict(per_class=0), 'per_class is 0; keep at least one'),
        (dict(per_class=6), 'per_class is 6, but class 2 has 5 samples'),
        (dict(labelled_file='nowhere.txt'), 'labelled_file nowhere.txt does not exist'),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(folder, arguments, message):
    with pytest.raises(ConfigError, match=message):
        PartiallyLabelledDataset(folder, **arguments)


def test_a_file_with_unknown_names_is_refused_and_shows_what_names_look_like(folder, tmp_path):
    (tmp_path / 'list.txt').write_text('cat/cat_3.png\ncat/cow.png\n')
    with pytest.raises(ConfigError, match=r"names 1 samples .* such as \['cat/cow.png'\].*cat/cat_0.png"):
        PartiallyLabelledDataset(folder, labelled_file=str(tmp_path / 'list.txt'))


def test_a_wrapper_inside_is_refused(folder):
    with pytest.raises(ConfigError, match='ConcatDataset is a wrapper'):
        PartiallyLabelledDataset(ConcatDataset([folder, folder]))
