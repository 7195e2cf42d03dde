"""Fashion-Scenes: the same seed gives the same files, boxes are tight, limits hold, wrong options are refused."""

import gzip
import json
import shutil

import cv2
import numpy as np
import pytest

from mmcds.core.errors import ConfigError
from mmcds.data.fashion_scenes import CLASSES, EMBEDDED, SceneRecipe, compose_scene, read_items, write_scenes


@pytest.fixture(scope='module')
def items():
    return {split: read_items(EMBEDDED, split) for split in ('train', 'test')}


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*.*'))}


def test_the_same_seed_gives_the_same_files_and_another_one_others(tmp_path):
    for name, seed in (('first', 7), ('second', 7), ('other', 8)):
        write_scenes(tmp_path / name, 'test', 5, seed=seed)
    first, second, other = (files(tmp_path / name) for name in ('first', 'second', 'other'))
    assert len(first) == 6
    assert first == second
    assert all(first[name] != other[name] for name in first)


def test_neither_workers_nor_the_count_change_a_scene(tmp_path):
    write_scenes(tmp_path / 'one', 'train', 40)
    write_scenes(tmp_path / 'three', 'train', 40, workers=3)
    write_scenes(tmp_path / 'few', 'train', 4)
    assert files(tmp_path / 'one') == files(tmp_path / 'three')
    many, few = files(tmp_path / 'one'), files(tmp_path / 'few')
    content, start = (json.loads(found.pop('annotations/train.json')) for found in (many, few))
    assert len(few) == 4
    assert few.items() <= many.items()
    assert start['images'] == content['images'][:4]
    assert start['annotations'] == content['annotations'][: len(start['annotations'])]


def test_on_a_black_background_every_lit_pixel_is_in_a_box_and_every_side_of_a_box_is_lit(tmp_path):
    recipe = SceneRecipe(clutter=0.0, max_occlusion=0.0)
    file, _ = write_scenes(tmp_path, 'train', 20, recipe)
    content = json.loads(file.read_text())
    for image in content['images']:
        pixels = cv2.imread(str(tmp_path / 'train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert pixels.shape == (image['height'], image['width']) == (96, 96)
        outside = pixels.copy()
        for annotation in content['annotations']:
            if annotation['image_id'] == image['id']:
                x, y, width, height = annotation['bbox']
                box = pixels[y : y + height, x : x + width]
                assert box.shape == (height, width)
                assert all(side.any() for side in (box[0], box[-1], box[:, 0], box[:, -1]))
                outside[y : y + height, x : x + width] = 0
        assert not outside.any()


def test_boxes_are_tight_around_what_is_seen_and_the_rest_is_background(items):
    recipe = SceneRecipe(items=(4, 8), max_occlusion=0.5)
    images, labels = items['train']
    covered = False
    for index in range(30):
        scene = compose_scene(index, images, labels, 'train', recipe, 0)
        for number, (x, y, width, height) in enumerate(scene.boxes()):
            seen = scene.owner == number
            assert seen[y : y + height, x : x + width].sum() == seen.sum() > 0
            assert seen[y].any()
            assert seen[y + height - 1].any()
            assert seen[:, x].any()
            assert seen[:, x + width - 1].any()
            others = scene.owner[y : y + height, x : x + width]
            covered |= bool(((others >= 0) & (others != number)).any())
        assert list(labels[scene.items]) == scene.labels
    assert covered, 'items must overlap somewhere, or this says nothing'


@pytest.mark.parametrize('limit', [0.0, 0.25, 0.6])
def test_no_item_loses_more_than_the_limit_and_the_limit_is_used(items, limit):
    images, labels = items['test']
    shares = []
    for index in range(40):
        scene = compose_scene(index, images, labels, 'test', SceneRecipe(items=(6, 6), max_occlusion=limit), 3)
        shown = [(scene.owner == number).sum() for number in range(6)]
        assert shown[5] == scene.whole[5], 'nothing lies in front of the last one'
        shares += [seen / whole for seen, whole in zip(shown, scene.whole, strict=True)]
    assert 1 - limit <= min(shares) <= 1.1 - limit


@pytest.mark.parametrize('size', [28, 56])
def test_an_item_has_as_many_pixels_as_its_mask_scaled(items, size):
    images, labels = items['test']
    recipe = SceneRecipe(items=(1, 1), item_size=(size, size))
    for index in range(20):
        scene = compose_scene(index, images, labels, 'test', recipe, 0)
        mask = images[scene.items[0]] > 0
        rows, columns = np.nonzero(mask)
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert scene.whole[0] == pytest.approx(mask.sum() * (size / longer) ** 2, rel=0.1)


def test_sizes_reach_coco_small_and_medium_and_stay_in_range(tmp_path):
    file, _ = write_scenes(tmp_path, 'train', 60, SceneRecipe(max_occlusion=0.0, items=(2, 2)))
    annotations = json.loads(file.read_text())['annotations']
    longer = [max(annotation['bbox'][2:]) for annotation in annotations]
    assert min(longer) >= 18, 'the rim of a mask may be lost when it shrinks'
    assert max(longer) <= 56
    areas = [annotation['area'] for annotation in annotations]
    assert 0.2 < np.mean(np.array(areas) >= 32**2) < 0.6
    assert {annotation['category_id'] for annotation in annotations} == set(range(1, 11))


def test_items_of_training_and_test_scenes_are_disjoint(items):
    train, test = ({image.tobytes() for image in items[split][0]} for split in ('train', 'test'))
    assert (len(train), len(test)) == (5000, 2000)
    assert not train & test
    images = np.concatenate([items['train'][0][:1], items['test'][0][:1]])
    first, second = (
        compose_scene(0, images, np.array([3, 4]), split, SceneRecipe(), 0) for split in ('train', 'test')
    )
    assert (first.image != second.image).any(), 'the splits have random streams of their own'


def test_compressed_and_plain_sources_give_the_same_scenes(tmp_path):
    (tmp_path / 'packed').mkdir()
    for path in EMBEDDED.glob('t10k-*'):
        with path.open('rb') as plain, gzip.open(tmp_path / 'packed' / f'{path.name}.gz', 'wb', 1) as packed:
            shutil.copyfileobj(plain, packed)
    write_scenes(tmp_path / 'a', 'test', 3)
    write_scenes(tmp_path / 'b', 'test', 3, source=tmp_path / 'packed')
    assert files(tmp_path / 'a') == files(tmp_path / 'b')


def test_scenes_that_are_there_are_kept_and_other_ones_are_refused(tmp_path):
    file, written = write_scenes(tmp_path, 'test', 3)
    assert written
    before = file.stat().st_mtime_ns
    assert write_scenes(tmp_path, 'test', 3) == (file, False)
    assert file.stat().st_mtime_ns == before
    (tmp_path / 'test' / '000001.png').unlink()
    assert write_scenes(tmp_path, 'test', 3) == (file, True), 'a lost image is made again'
    with pytest.raises(ConfigError, match=r"other scenes, with \{'seed': 0\} where \{'seed': 1\} .* Give --overwrite"):
        write_scenes(tmp_path, 'test', 3, seed=1)
    assert write_scenes(tmp_path, 'test', 3, seed=1, overwrite=True) == (file, True)
    assert json.loads(file.read_text())['info']['seed'] == 1


@pytest.mark.parametrize(
    'recipe, message',
    [
        (dict(items=(0, 3)), r'items must be two rising numbers from 1 on, got 0 3'),
        (dict(items=(4, 3)), r'items must be two rising numbers from 1 on, got 4 3'),
        (dict(item_size=(2, 9)), r'item_size must be two rising numbers from 4 on, got 2 9'),
        (dict(size=32), r'items of up to 56 pixels do not fit into images of 32 pixels'),
        (dict(max_occlusion=1.0), r'max_occlusion must be in \[0, 1\), got 1.0'),
        (dict(clutter=-0.5), r'clutter must be in \[0, 1\], got -0.5'),
    ],
)
def test_recipes_that_make_no_scene_are_refused(recipe, message):
    with pytest.raises(ConfigError, match=message):
        SceneRecipe(**recipe)


@pytest.mark.parametrize('option', ['count', 'workers', 'seed'])
def test_counts_below_their_limit_are_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=rf'{option} must be at least \d, got -1'):
        write_scenes(tmp_path, **{'split': 'test', 'count': 2, option: -1})


def test_too_many_items_for_an_image_are_refused(tmp_path):
    recipe = SceneRecipe(items=(30, 30), item_size=(40, 50), max_occlusion=0.0)
    with pytest.raises(ConfigError, match=r'30 items of 40 to 50 pixels find no place in an image of 96 pixels'):
        write_scenes(tmp_path, 'test', 1, recipe)


def test_missing_damaged_and_unfitting_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r'holds neither t10k-images-idx3-ubyte nor .*\.gz'):
        read_items(tmp_path, 'test')
    for path in EMBEDDED.glob('t10k-*'):
        shutil.copy(path, tmp_path)
    images, labels = tmp_path / 't10k-images-idx3-ubyte', tmp_path / 't10k-labels-idx1-ubyte'
    whole = images.read_bytes()
    images.write_bytes(whole[:5000])
    with pytest.raises(ConfigError, match=r'is no IDX file or is cut off'):
        read_items(tmp_path, 'test')
    images.write_bytes(whole)
    head = labels.read_bytes()
    labels.write_bytes(head[:4] + (12).to_bytes(4, 'big') + head[8:20])
    with pytest.raises(ConfigError, match=r'images \(2000, 28, 28\) and labels \(12,\) .* do not belong together'):
        read_items(tmp_path, 'test')


def test_the_tool_writes_both_splits_and_says_what_they_hold(tool, tmp_path, capsys):
    arguments = ['--train', '4', '--test', '2', '--size', '64', '--item-size', '16', '40', '--items', '1', '2']
    tool('make_fashion_scenes').main([*arguments, '--no-flip', '--out', str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(': ')[1].split(',')[0] for line in lines] == ['4 scenes written', '2 scenes written']
    content = json.loads((tmp_path / 'annotations' / 'train.json').read_text())
    assert [category['name'] for category in content['categories']] == list(CLASSES)
    assert content['info']['flip'] is False
    assert {image['width'] for image in content['images']} == {64}


def test_a_mirrored_item_is_the_item_mirrored(items):
    """With one item, no background and one size, half of the scenes show it as it is and half its mirror image."""
    images, labels = items['train'][0][:1], items['train'][1][:1]
    recipe = SceneRecipe(items=(1, 1), item_size=(40, 40), clutter=0.0)
    shown = set()
    for index in range(12):
        scene = compose_scene(index, images, labels, 'train', recipe, 0)
        x, y, width, height = scene.boxes()[0]
        shown.add(scene.image[y : y + height, x : x + width].tobytes())
        shape = (height, width)
    assert len(shown) == 2
    first, second = (np.frombuffer(pixels, np.uint8).reshape(shape).astype(int) for pixels in shown)
    assert np.abs(first - second[:, ::-1]).max() <= 1, 'equal up to the rounding of the interpolation'


def test_an_item_too_thin_to_be_seen_at_its_size_is_not_laid_down(items):
    _, labels = items
    thin = np.zeros((1, 28, 28), np.uint8)
    thin[0, [0, 27], [0, 27]] = 255  # two corners, which a smaller image loses
    recipe = SceneRecipe(items=(1, 1), item_size=(4, 4), clutter=0.0)
    with pytest.raises(ConfigError, match='1 items of 4 to 4 pixels find no place'):
        compose_scene(0, thin, labels[:1], 'train', recipe, 0)
