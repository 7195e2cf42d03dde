"""Colour of views: each operation is torchvision's, each parameter has its distribution, nothing else decides."""

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS
from torch.testing import assert_close
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as tv

from mmcds.views.color import JITTER, NUM_UNIFORMS, RandomColor, apply_color, keyed_uniforms
from mmcds.views.color_uint8 import apply_color_planes, apply_color_uint8
from mmcds.views.fused_view import fuse

OFFICIAL = RandomColor(jitter_prob=0.8, ranges=((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)), grey_prob=0.2)
EVERYTHING = RandomColor(
    jitter_prob=0.8,
    ranges=((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.5, 0.5)),
    grey_prob=0.2,
    blur_prob=0.5,
    blur_sigma=(0.1, 2.0),
    solarize_prob=0.3,
    cutout=9,
)
COUNT = 24


@pytest.fixture(scope='module')
def photographs() -> torch.Tensor:
    """Smooth coloured images with flat and saturated parts, (N, 3, 20, 28), uint8 RGB."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(COUNT, 3, 5, 6, generator=generator) * 400 - 70
    images = torch.nn.functional.interpolate(coarse, size=(20, 28), mode='bicubic').clamp(0, 255).round()
    images[:, :, :4, :4] = torch.tensor([0.0, 128.0, 255.0]).repeat(COUNT // 3).view(-1, 1, 1, 1)
    return images.to(torch.uint8)


def draws(color: RandomColor, count: int = COUNT, seed: int = 0):
    return color.draw(np.random.default_rng(seed).random((count, NUM_UNIFORMS)))


def torchvision_says(image: torch.Tensor, draw, row: int, color: RandomColor) -> torch.Tensor:
    """The same operations by torchvision on one image of floats in [0, 1]."""
    adjust = [getattr(tv, f'adjust_{name}') for name in JITTER]
    if draw.jitter[row]:
        for operation in draw.order[row]:
            if color.ranges[operation] is not None:
                image = adjust[operation](image, draw.factors[row, operation])
    if draw.grey[row]:
        image = tv.rgb_to_grayscale(image, num_output_channels=3)
    if draw.sigma[row]:
        image = tv.gaussian_blur(image, color.kernel_size, draw.sigma[row])
    if draw.solarize[row]:
        image = tv.solarize(image, color.solarize_threshold / 255)
    return image


def alone(name: str) -> RandomColor:
    """One operation, always."""
    ranges = [None] * 4
    if name in JITTER:
        ranges[JITTER.index(name)] = (-0.5, 0.5) if name == 'hue' else (0.0, 2.0)
        return RandomColor(jitter_prob=1.0, ranges=tuple(ranges))
    return RandomColor(
        **dict(grey=dict(grey_prob=1.0), blur=dict(blur_prob=1.0), solarize=dict(solarize_prob=1.0))[name]
    )


@pytest.mark.parametrize('name', [*JITTER, 'grey', 'blur', 'solarize'])
def test_each_operation_on_a_batch_is_the_one_of_torchvision(photographs, name):
    color = alone(name)
    draw = draws(color)
    ours = apply_color(photographs.double(), draw, color) / 255
    for row, image in enumerate(photographs.double() / 255):
        assert_close(ours[row], torchvision_says(image, draw, row, color), rtol=0, atol=2e-6)


def test_the_whole_chain_on_a_batch_is_the_one_of_torchvision(photographs):
    color = RandomColor(**{**vars(EVERYTHING), 'cutout': 0, 'blur_sigma': (0.1, 1.0)})
    draw = draws(color)
    ours = apply_color(photographs.double(), draw, color) / 255
    for row, image in enumerate(photographs.double() / 255):
        assert_close(ours[row], torchvision_says(image, draw, row, color), rtol=0, atol=1e-5)


#: Largest and mean difference in grey levels that rounding may make: one level per operation; two for the blur, whose
#: kernel OpenCV rounds too; for the hue, 6 because two angles are rounded to 1/256 of the circle by half a step each,
#: and the rest because saturation and value are rounded as well.
BOUNDS = dict(brightness=(1, 0.5), contrast=(1, 0.5), saturation=(1, 0.5), grey=(1, 0.5), blur=(2, 0.5), hue=(10, 1))


@pytest.mark.parametrize('name', BOUNDS)
def test_the_loading_process_agrees_with_the_batch_within_grey_levels(photographs, name):
    color = alone(name)
    draw = draws(color)
    batch = apply_color(photographs.float(), draw, color)
    for row, image in enumerate(photographs):
        before = image.permute(1, 2, 0).flip(-1).numpy()
        after = apply_color_uint8(before, draw, row, color)
        assert np.array_equal(before, image.permute(1, 2, 0).flip(-1).numpy()), 'the image must not be written to'
        difference = (torch.from_numpy(after).flip(-1).permute(2, 0, 1) - batch[row]).abs()
        assert difference.max() <= BOUNDS[name][0] + 1e-3
        assert difference.mean() <= BOUNDS[name][1]


def test_solarisation_and_cutout_agree_exactly(photographs):
    color = RandomColor(solarize_prob=0.5, cutout=9)
    draw = draws(color)
    batch = apply_color(photographs.float(), draw, color)
    for row, image in enumerate(photographs):
        after = apply_color_uint8(image.permute(1, 2, 0).flip(-1).numpy(), draw, row, color)
        assert torch.equal(torch.from_numpy(after).flip(-1).permute(2, 0, 1).float(), batch[row])


def test_a_batch_of_planes_becomes_what_its_images_become(photographs):
    draw = draws(EVERYTHING)
    planes = photographs.flip(1).numpy().copy()
    apply_color_planes(planes, draw, EVERYTHING)
    for row, image in enumerate(photographs):
        alone = apply_color_uint8(image.permute(1, 2, 0).flip(-1).numpy(), draw, row, EVERYTHING)
        assert np.array_equal(planes[row].transpose(1, 2, 0), alone)


def test_the_hole_is_the_one_of_the_single_transform():
    color = RandomColor(cutout=4)
    draw = draws(color, 4000)
    holes = (apply_color(torch.full((4000, 3, 8, 8), 7.0), draw, color) == 0).all(1)
    assert (holes.sum((1, 2)) == holes.any(1).sum(1) * holes.any(2).sum(1)).all(), 'a hole is a full rectangle'
    heights = torch.bincount(holes.any(2).sum(1), minlength=8) / 4000
    assert_close(heights, torch.tensor([0, 0, 1 / 8, 2 / 8, 5 / 8, 0, 0, 0]), atol=0.03, rtol=0)
    assert_close(holes[:, 3, 3].float().mean(), torch.tensor(1 / 4), atol=0.03, rtol=0)


def uniform_distance(values: np.ndarray, low: float, high: float) -> float:
    """Kolmogorov-Smirnov distance to the uniform distribution, times the root of the number of values."""
    values = (np.sort(values) - low) / (high - low)
    grid = np.arange(len(values) + 1) / len(values)
    return max((grid[1:] - values).max(), (values - grid[:-1]).max()) * np.sqrt(len(values))


def test_drawn_parameters_have_the_published_distributions():
    n = 20000
    draw = EVERYTHING.draw(keyed_uniforms(3, 17, np.arange(n), 1))
    for mask, probability in ((draw.jitter, 0.8), (draw.grey, 0.2), (draw.sigma > 0, 0.5), (draw.solarize, 0.3)):
        assert abs(mask.mean() - probability) < 4 * np.sqrt(probability * (1 - probability) / n)
    for column, (low, high) in enumerate(EVERYTHING.ranges):
        assert uniform_distance(draw.factors[:, column], low, high) < 1.63  # exceeded in 1 % of all samples
    assert uniform_distance(draw.sigma[draw.sigma > 0], 0.1, 2.0) < 1.63
    for axis in range(2):
        assert uniform_distance(draw.centre[:, axis], 0, 1) < 1.63
    orders, counts = np.unique(draw.order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - n / 24) ** 2 / (n / 24)).sum() < 41.6  # chi-squared with 23 degrees of freedom, 1 %
    together = np.corrcoef(np.stack([draw.jitter, draw.grey, *draw.factors.T, *draw.centre.T, draw.solarize]))
    assert abs(together - np.eye(len(together))).max() < 4 / np.sqrt(n)


def test_ranges_and_orders_are_those_that_torchvision_draws():
    jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
    assert [tuple(getattr(jitter, name)) for name in JITTER] == [pytest.approx(r) for r in OFFICIAL.ranges]


@pytest.mark.parametrize('other', ['seed', 'step', 'sample', 'view'])
def test_numbers_change_with_every_part_of_the_key(other):
    key = dict(seed=1, step=2, sample_idx=np.array([3]), view=0)
    changed = dict(
        key,
        **dict(seed=dict(seed=2), step=dict(step=3), sample=dict(sample_idx=np.array([4])), view=dict(view=1))[other],
    )
    first, second = keyed_uniforms(**key), keyed_uniforms(**changed)
    assert (first != second).all()
    many = [
        keyed_uniforms(**dict(k, sample_idx=np.arange(9999))).ravel() for k in (dict(key, step=5), dict(key, step=6))
    ]
    assert abs(np.corrcoef(many)[0, 1]) < 4 / np.sqrt(9999 * NUM_UNIFORMS)


def test_an_image_gets_the_same_colour_wherever_it_stands(photographs):
    def colored(indices):
        draw = EVERYTHING.draw(keyed_uniforms(0, 5, np.asarray(indices), 1))
        return apply_color(photographs[indices].float(), draw, EVERYTHING)

    whole = colored(list(range(COUNT)))
    assert_close(torch.cat([colored(list(range(7))), colored(list(range(7, COUNT)))]), whole, rtol=0, atol=1e-4)
    assert_close(colored([5, 2, 9]), whole[[5, 2, 9]], rtol=0, atol=1e-4)
    assert not torch.equal(whole[0], whole[1])


def test_ordinary_pipelines_are_recognised_with_their_settings():
    def build(*steps):
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return fuse([TRANSFORMS.build(dict(step)) for step in steps])

    jitter = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, backend='cv2')
    grey = dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))
    blur = dict(type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf', prob=0.5)
    flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
    view = build(
        dict(type='RandomResizedCrop', scale=8),
        flip,
        dict(type='RandomApply', prob=0.8, transforms=[jitter]),
        grey,
        blur,
        dict(type='Solarize', thr=100, prob=0.3),
        dict(type='CenteredCutout', length=5),
    )
    assert view.flip == 0.5
    assert view.crop.scale == (8, 8)
    assert view.color.ranges == OFFICIAL.ranges
    assert view.color == RandomColor(
        jitter_prob=0.8, ranges=OFFICIAL.ranges, grey_prob=0.2, blur_prob=0.5, blur_sigma=(0.1, 2.0),
        solarize_prob=0.3, solarize_threshold=100, cutout=5,
    )  # fmt: skip
    assert build(jitter).color.jitter_prob == 1.0
    assert build().color is None
    for other in (
        [flip, dict(type='RandomCrop', crop_size=8)],  # another order
        [flip, flip],
        [dict(jitter, backend='pillow')],
        [dict(grey, channel_weights=(1, 1, 1))],
        [dict(type='RandomFlip', prob=0.5, direction='vertical')],
        [dict(type='RandomResizedCrop', scale=8, backend='pillow')],
        [dict(type='RandomApply', prob=0.8, transforms=[jitter, flip])],
        [dict(type='Resize', scale=(8, 8))],
    ):
        assert build(*other) is None, other
