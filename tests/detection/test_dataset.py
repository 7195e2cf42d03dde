"""Annotations that MMDetection would drop or mix up are refused, and the message says which and what to do."""

import json

import pytest
from detection_runs import replica_dataset
from mmengine.registry import DefaultScope

from mmcds.core.errors import ConfigError
from mmcds.detection import CheckedCocoDataset
from mmcds.openmmlab.runner import build_dataset


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


@pytest.mark.parametrize('image_id, kind', [('1', 'str'), (9999, 'int')])
def test_an_annotation_of_no_image_is_refused(changed, image_id, kind):
    words = rf'changed\.json: annotation 2 has the image_id {image_id!r} \({kind}\), .* like 1 \(int\)\. Correct'
    with pytest.raises(ConfigError, match=words):
        changed(lambda content: content['annotations'][1].update(image_id=image_id))


@pytest.mark.parametrize(
    'group, field',
    [
        *(('annotations', field) for field in ('id', 'bbox', 'image_id', 'category_id')),
        *(('images', field) for field in ('id', 'file_name', 'height', 'width')),
        *(('categories', field) for field in ('id', 'name')),
    ],
)
def test_a_missing_field_is_named_with_its_entry(changed, group, field):
    number = '.*' if field == 'id' else r'\d+'
    with pytest.raises(ConfigError, match=rf"{group}\[1\] \(id {number}\) lacks the field '{field}'\. Add it"):
        changed(lambda content: content[group][1].pop(field))


@pytest.mark.parametrize('group', ['images', 'categories'])
def test_a_file_without_images_or_categories_is_refused(changed, group):
    with pytest.raises(ConfigError, match=rf"changed\.json lacks the field '{group}'"):
        changed(lambda content: content.pop(group))


@pytest.mark.parametrize('box', [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, '3', 4]])
def test_a_box_is_four_numbers(changed, box):
    with pytest.raises(ConfigError, match=r'annotation 1 has the bbox \[.*, but a box is four numbers'):
        changed(set_first('bbox', box))


def test_a_missing_area_is_that_of_the_box_but_a_test_needs_what_the_metric_reads(changed, coco_root):
    def without(field):
        return lambda content: [annotation.pop(field) for annotation in content['annotations']]

    whole = replica_dataset(coco_root)
    for field in ('area', 'iscrowd'):
        found = changed(without(field))
        for index in range(4):
            boxes, ours = (each.get_data_info(index)['instances'] for each in (whole, found))
            assert [box['bbox'] for box in ours] == [box['bbox'] for box in boxes]
        with pytest.raises(
            ConfigError, match=f"lacks the field '{field}', which the evaluation reads .* Add it to all"
        ):
            changed(without(field), test_mode=True)


def test_a_field_that_a_reader_misses_is_no_folder_that_is_missing(coco_root, monkeypatch):
    def read(self, raw_data_info):
        raise KeyError('area')

    monkeypatch.setattr(CheckedCocoDataset, 'parse_data_info', read)
    config = dict(type='CheckedCocoDataset', data_root=str(coco_root / 'coco'), data_prefix=dict(img='train2017/'))
    words = r"instances_train2017\.json of .* lacks the field 'area'"
    with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(ConfigError, match=words) as found:
        build_dataset(dict(config, ann_file='annotations/instances_train2017.json'))
    assert 'data-root' not in str(found.value)


def test_a_data_set_of_which_nothing_is_left_is_refused(coco_root):
    with pytest.raises(ConfigError, match=r"of 4 images none is left\. Check .* filter_cfg=\{'min_size': 1000\}"):
        replica_dataset(coco_root, filter_cfg=dict(min_size=1000))
