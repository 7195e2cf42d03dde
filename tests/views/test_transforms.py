"""Loading, Cutout and the views: what the network sees of a file or an array."""

import cv2
import numpy as np
import pytest
import torch
from mmpretrain.registry import TRANSFORMS
from torch.utils.data import default_collate

from mmcds.core.errors import ConfigError
from mmcds.views.cutout import CenteredCutout
from mmcds.views.loading import LoadImage
from mmcds.views.multi_view import MultiViewTransform


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def write(path, image) -> dict:
    cv2.imwrite(str(path), image)
    return dict(img_path=str(path), sample_idx=0)


def test_a_file_is_read_as_bgr(tmp_path, colours):
    results = LoadImage()(write(tmp_path / 'a.png', colours))
    assert np.array_equal(results['img'], colours)
    assert results['img_shape'] == results['ori_shape'] == (6, 5)


def test_an_rgb_array_becomes_bgr(colours):
    assert np.array_equal(LoadImage(array_order='rgb')(dict(img=colours))['img'], colours[..., ::-1])
    assert np.array_equal(LoadImage()(dict(img=colours))['img'], colours)


@pytest.mark.parametrize('source', ['file', 'array', 'array with channel'])
def test_grey_is_repeated_over_three_channels(tmp_path, colours, source):
    grey = colours[..., 0]
    results = LoadImage()(
        write(tmp_path / 'a.png', grey)
        if source == 'file'
        else dict(img=grey if source == 'array' else grey[..., None])
    )
    assert np.array_equal(results['img'], np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('source', ['file', 'array'])
def test_alpha_is_dropped(tmp_path, colours, source):
    with_alpha = np.concatenate([colours, np.full((6, 5, 1), 9, np.uint8)], axis=2)
    results = LoadImage()(write(tmp_path / 'a.png', with_alpha) if source == 'file' else dict(img=with_alpha))
    assert np.array_equal(results['img'], colours)


def test_a_decoded_image_passes_unchanged(colours):
    results = dict(img=colours, img_shape=(6, 5))
    assert LoadImage(array_order='rgb')(results)['img'] is colours


def test_unreadable_files_are_replaced_up_to_the_threshold_then_stop(tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'no image')
    load = LoadImage(max_unreadable=2)
    assert load(dict(img_path=str(tmp_path / 'broken.jpg'))) is None
    assert load(dict(img_path=str(tmp_path / 'absent.jpg'))) is None
    assert load(dict(img_path=str(tmp_path / 'broken.jpg'))) is None, 'a file counts once'
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with pytest.raises(ConfigError, match=r'cannot read .*empty\.jpg \(it is empty\).*absent\.jpg.*: 2'):
        load(dict(img_path=str(tmp_path / 'empty.jpg')))


def test_a_dataset_replaces_an_unreadable_file_by_another_image(tmp_path, colours):
    from mmpretrain.datasets import CustomDataset

    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
    write(tmp_path / 'a' / 'good.png', colours)
    (tmp_path / 'b' / 'broken.png').write_bytes(b'no image')
    pipeline = [dict(type='LoadImage', max_unreadable=1000)]
    dataset = CustomDataset(data_root=str(tmp_path), pipeline=pipeline)
    assert dataset[1]['img_path'].endswith('good.png')


def test_rejects_two_channels_and_unknown_order(colours):
    with pytest.raises(ConfigError, match=r'sample 3 has shape \(6, 5, 2\)'):
        LoadImage()(dict(img=colours[..., :2], sample_idx=3))
    with pytest.raises(ConfigError, match="array_order is 'rbg'; choose 'rgb' or 'bgr'"):
        LoadImage(array_order='rbg')


def test_cutout_holes_are_squares_clipped_at_the_border_with_uniform_centres():
    np.random.seed(0)
    cut = CenteredCutout(length=4)
    image = np.full((8, 8, 3), 7, np.uint8)
    heights, holes = np.zeros(8), np.zeros((8, 8))
    for _ in range(4000):
        hole = (cut(dict(img=image))['img'] == 0).all(2)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns), 'a hole is a full rectangle'
        heights[len(rows)] += 1
        holes += hole
    assert (image == 7).all(), 'the image that came in must not be written to'
    # Top edges centre - 2 with centres 0..7 give heights 2, 3, 4, 4, 4, 4, 4, 3.
    assert np.allclose(heights / 4000, [0, 0, 1 / 8, 2 / 8, 5 / 8, 0, 0, 0], atol=0.03)
    assert np.allclose(holes[3, 3] / 4000, 1 / 4, atol=0.03)  # 4 of 8 centres per axis reach it


def test_rejects_a_cutout_of_no_size():
    with pytest.raises(ConfigError, match='length is 0 pixels'):
        CenteredCutout(length=0)


def test_views_have_their_own_pipelines_and_share_one_decoded_image(colours):
    flip = dict(type='RandomFlip', prob=1.0, direction='horizontal')
    transform = MultiViewTransform(views=[[], [flip], [dict(type='CenteredCutout', length=32)]])
    results = transform(dict(img=colours))
    expected = torch.from_numpy(colours).permute(2, 0, 1)
    assert results['img'].dtype == torch.uint8
    assert results['img'].is_contiguous()
    assert torch.equal(results['img'][0], expected)
    assert torch.equal(results['img'][1], expected.flip(-1))
    assert not results['img'][2].any()


def test_views_collate_to_images_first(colours):
    pipeline = TRANSFORMS.build(dict(type='mmpretrain.PackInputs'))
    sample = MultiViewTransform(views=[[], []])(dict(img=colours, gt_label=3, sample_idx=5))
    packed = pipeline(sample)
    assert packed['inputs'].shape == (2, 3, 6, 5)
    assert default_collate([packed['inputs']] * 4).shape == (4, 2, 3, 6, 5)
    assert packed['data_samples'].sample_idx == 5


def test_rejects_no_view_and_views_of_different_size(colours):
    with pytest.raises(ConfigError, match='views is empty'):
        MultiViewTransform(views=[])
    with pytest.raises(ConfigError, match=r'have shapes \[\(4, 4, 3\), \(6, 5, 3\)\]'):
        MultiViewTransform(views=[[], [dict(type='RandomCrop', crop_size=4)]])(dict(img=colours))
