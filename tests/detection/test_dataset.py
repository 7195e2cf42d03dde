"""Annotations that MMDetection would drop or mix up are refused, and the message says which and what to do."""

import json

import pytest
from detection_runs import replica_dataset

from mmcds.core.errors import ConfigError


@pytest.fixture
def changed(coco_root, tmp_path):
    """A function that builds the replica with one change of its annotation file."""

    def build(change, **settings):
        content = json.loads((coco_root / 'coco/annotations/instances_train2017.json').read_text())
        change(content)
        (tmp_path / 'changed.json').write_text(json.dumps(content))
        return replica_dataset(coco_root, ann_file=str(tmp_path / 'changed.json'), **settings)

    return build


def set_first(key, value):
    return lambda content: content['annotations'][0].update({key: value})


def test_true_annotations_are_read_as_the_host_reads_them(coco_root):
    from mmdet.datasets import CocoDataset

    ours = replica_dataset(coco_root)
    theirs = CocoDataset(
        data_root=ours.data_root, ann_file='annotations/instances_train2017.json', data_prefix=dict(img='train2017/')
    )
    assert len(ours) == len(theirs) == 4
    assert [ours.get_data_info(i) for i in range(4)] == [theirs.get_data_info(i) for i in range(4)]
    assert [len(ours.get_data_info(i)['instances']) for i in range(4)] == [2, 2, 2, 3]


def test_a_category_that_the_file_does_not_list_is_refused(changed):
    with pytest.raises(ConfigError, match=r'annotation 1 of 000000000001\.jpg has category_id 12, .* Correct the ann'):
        changed(set_first('category_id', 12))


def test_a_category_that_is_not_among_the_classes_is_refused_unless_a_subset_is_wanted(changed):
    change = set_first('category_id', 1)  # a person
    classes = ('car', 'dog')
    with pytest.raises(ConfigError, match=r"has the category 'person', which is not among the 2 classes.*subset=True"):
        changed(change, metainfo=dict(classes=classes))
    subset = changed(change, metainfo=dict(classes=classes), subset=True)
    assert {box['bbox_label'] for i in range(4) for box in subset.get_data_info(i)['instances']} <= {0, 1}


def test_a_class_that_the_file_does_not_know_is_refused(changed):
    with pytest.raises(ConfigError, match=r"1 of 2 classes are not among its categories, such as 'dogg'; it has 'per"):
        changed(lambda content: None, metainfo=dict(classes=('car', 'dogg')))


@pytest.mark.parametrize('box', [[9, 9, -4, 5], [9, 9, 4, -5], [float('nan'), 0, 4, 5]])
def test_an_inverted_or_undefined_box_is_refused(changed, box):
    with pytest.raises(ConfigError, match=r'annotation 1 of .* which is inverted or not finite; a box is \[x, y, wid'):
        changed(set_first('bbox', box), max_empty_boxes=9)


@pytest.mark.parametrize('box', [[9, 9, 0, 5], [9, 9, 5, 0], [200, 9, 5, 5], [-9, 9, 5, 5]])
def test_empty_boxes_are_refused_or_left_out_and_named(changed, box):
    with pytest.raises(ConfigError, match=r'is empty or lies outside of the image \(48 x 64\).*max_empty_boxes=0'):
        changed(set_first('bbox', box))
    tolerant = changed(set_first('bbox', box), max_empty_boxes=1)
    assert len(tolerant.get_data_info(0)['instances']) == 1
    assert tolerant.empty_boxes == [f'changed.json: annotation 1 of 000000000001.jpg, box {box}']


def test_missing_images_are_counted_before_the_run(changed):
    with pytest.raises(ConfigError, match=r'2 of 4 image files are missing, such as .*gone.* Check data_prefix\.img'):
        changed(lambda content: [image.update(file_name='gone.jpg') for image in content['images'][:2]])


def test_a_data_set_of_which_nothing_is_left_is_refused(coco_root):
    with pytest.raises(ConfigError, match=r"of 4 images none is left\. Check .* filter_cfg=\{'min_size': 1000\}"):
        replica_dataset(coco_root, filter_cfg=dict(min_size=1000))
