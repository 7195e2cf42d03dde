"""Views in one step: the same pixels from the same random numbers as MMPretrain's transforms one by one."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmcds.core.errors import ConfigError
from mmcds.views.multi_view import MultiViewTransform

FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
CROPS = [
    dict(type='RandomResizedCrop', scale=24),
    dict(type='RandomResizedCrop', scale=(24, 20), crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=32, padding=4, pad_val=(128, 128, 128)),
    dict(type='RandomCrop', crop_size=(30, 40), padding=(1, 2), pad_val=(1, 2, 3)),
    dict(type='RandomCrop', crop_size=20),
]
JITTER = dict(
    type='RandomApply',
    prob=0.8,
    transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')],
)
GREY = dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


@pytest.fixture
def image() -> np.ndarray:
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8), (52, 40))


def views_of(transform, image, seed=0):
    np.random.seed(seed)
    return transform(dict(img=image, sample_idx=0))['img']


@pytest.mark.parametrize('crop', CROPS, ids=str)
def test_crop_and_flip_give_the_pixels_of_the_host_from_the_same_numbers(image, crop):
    views = [[crop, FLIP], [crop, FLIP]]
    fused, theirs_of = MultiViewTransform(views), MultiViewTransform(views, fuse=False)
    assert fused.colors == [None, None]
    assert theirs_of.colors is None
    before = image.copy()
    for seed in range(30):
        ours, theirs = views_of(fused, image, seed), views_of(theirs_of, image, seed)
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous()
    assert np.array_equal(image, before)
    assert not torch.equal(ours[0], ours[1]), 'each view draws for itself'


def test_an_image_of_another_shape_than_all_crops_falls_back_to_the_centre_as_in_the_host(image):
    narrow = np.ascontiguousarray(image[:, :6])
    views = [[dict(type='RandomResizedCrop', scale=8, crop_ratio_range=(0.9, 1.0))]]
    ours = views_of(MultiViewTransform(views), narrow)
    assert torch.equal(ours, views_of(MultiViewTransform(views, fuse=False), narrow))


def test_colours_of_both_ways_are_equally_distributed(image):
    """Mean and spread over many draws of the mean colour; MMPretrain jitters and greys one view with other numbers."""
    views = [[JITTER, GREY]]
    np.random.seed(0)
    means = []
    for fuse in (True, False):
        transform = MultiViewTransform(views, fuse=fuse)
        seen = torch.stack([transform(dict(img=image))['img'][0].float().mean((1, 2)) for _ in range(1500)])
        means.append(torch.cat([seen.mean(0), seen.std(0), seen.std(1).mean()[None]]))
    assert (means[0] - means[1]).abs().max() < 2.5, 'grey levels; the spread is about 25'
    assert means[0][3] > 15


def test_a_view_of_other_transforms_runs_as_it_is_written_beside_a_fused_one(image):
    other = [dict(type='Resize', scale=(24, 24)), dict(type='Invert', prob=1.0)]
    transform = MultiViewTransform([[CROPS[0], FLIP], other])
    assert transform.colors is None
    views = views_of(transform, image)
    expected = 255 - cv2.resize(image, (24, 24), interpolation=cv2.INTER_LINEAR)
    assert torch.equal(views[1].permute(1, 2, 0), torch.from_numpy(expected))
    assert transform.transform_batch(image.transpose(2, 0, 1)[None]) is None


def test_colours_are_left_out_when_the_batch_is_to_do_them(image):
    views = [[CROPS[0], FLIP, dict(type='CenteredCutout', length=8)], [CROPS[0], FLIP, JITTER, GREY]]
    bare = MultiViewTransform([view[:2] for view in views])
    transform = MultiViewTransform(views)
    assert not torch.equal(views_of(transform, image), views_of(bare, image))
    transform.color_on = 'device'
    assert torch.equal(views_of(transform, image), views_of(bare, image))


@pytest.mark.parametrize(
    'crop',
    [
        dict(type='RandomCrop', crop_size=(40, 52), padding=2, pad_val=9),
        dict(type='RandomCrop', crop_size=(38, 50)),
        CROPS[0],
        None,
    ],
    ids=str,
)
def test_a_batch_gets_views_of_the_same_distribution_as_one_image_after_the_other(image, crop):
    steps = [crop, FLIP] if crop else [FLIP]
    transform = MultiViewTransform([steps, [*steps, dict(type='CenteredCutout', length=2)]])
    count = 1500
    planes = np.broadcast_to(image.transpose(2, 0, 1), (count, 3, *image.shape[:2]))
    np.random.seed(0)
    batch = torch.from_numpy(transform.transform_batch(planes))
    single = torch.stack([transform(dict(img=image))['img'] for _ in range(count)])
    assert batch.shape == single.shape
    assert batch.is_contiguous()
    assert (batch[:, 1] == 0).all(1).flatten(1).sum(1).min() >= 1, 'the hole of the second view'
    one, other = (views[:, 0].float() for views in (batch, single))
    assert (one.mean(0) - other.mean(0)).abs().max() < 5 * other.std(0).max() * (2 / count) ** 0.5 + 1e-3
    kinds = [{view.numpy().tobytes() for view in views[:, 0]} for views in (batch, single)]
    if crop is None or crop['type'] == 'RandomCrop':
        assert kinds[0] == kinds[1], 'the same crops'


def test_one_padding_value_fills_all_channels(image):
    """MMPretrain gives it to the first channel alone."""
    transform = MultiViewTransform([[dict(type='RandomCrop', crop_size=(48, 60), padding=4, pad_val=128)]])
    planes = image.transpose(2, 0, 1)[None]
    for views in (views_of(transform, image)[None], torch.from_numpy(transform.transform_batch(planes))):
        assert (views[..., :4, :] == 128).all()
        assert np.array_equal(views[0, 0, :, 4:-4, 4:-4].numpy(), planes[0])


def test_rejects_colours_on_the_device_that_only_a_process_can_make():
    with pytest.raises(ConfigError, match=r"color_on is 'device', but view 1 holds transforms"):
        MultiViewTransform([[FLIP], [dict(type='Invert')]], color_on='device')
    with pytest.raises(ConfigError, match=r"color_on is 'gpu'; choose 'auto', 'worker' or 'device'"):
        MultiViewTransform([[FLIP]], color_on='gpu')
