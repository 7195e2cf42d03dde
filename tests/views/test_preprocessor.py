"""The data preprocessor: V views in training, plain images at test time."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from conftest import forget_runs
from mmengine.logging import MessageHub
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.data import SampleBatch
from mmcds.views.color import RandomColor, apply_color, keyed_uniforms
from mmcds.views.preprocessor import CDSDataPreprocessor

MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]


def samples(*labels):
    return [DataSample().set_gt_label(label) for label in labels]


def test_views_leave_view_first_normalised_and_in_rgb():
    images = torch.randint(0, 256, (3, 2, 3, 4, 5), dtype=torch.uint8)
    batch = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=True)(dict(inputs=images, data_samples=None), True)
    expected = (images.flip(2).float() - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert_close(batch['inputs'], expected.transpose(0, 1))


def test_a_plain_image_is_treated_as_the_host_treats_it():
    from mmpretrain.models import ClsDataPreprocessor

    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8)
    data = dict(inputs=images, data_samples=samples(0, 1, 2))
    ours = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=True, num_classes=3)(data)
    theirs = ClsDataPreprocessor(mean=MEAN, std=STD, to_rgb=True, num_classes=3)(data)
    assert torch.equal(ours['inputs'], theirs['inputs'])


@pytest.mark.parametrize('label', [-2, 3, 99])
def test_rejects_a_label_out_of_range(label):
    data = dict(inputs=torch.zeros(1, 2, 3, 4, 4), data_samples=samples(label))
    data['data_samples'][0].set_field('a/b.jpg', 'img_path', field_type='metainfo')
    with pytest.raises(ConfigError, match=rf'a/b\.jpg has label {label}, but labels must be -1 .* or 0 to 2'):
        CDSDataPreprocessor(num_classes=3)(data, training=True)


def test_minus_one_is_the_label_of_an_unlabelled_image():
    data = dict(inputs=torch.zeros(1, 2, 3, 4, 4), data_samples=samples(-1))
    assert CDSDataPreprocessor(num_classes=3)(data, training=True)['data_samples'][0].gt_label == -1


COLOR = RandomColor(jitter_prob=1.0, ranges=((0.5, 1.5),) * 3 + ((-0.2, 0.2),), grey_prob=0.2, cutout=2)


def colored(preprocessor, images, indices, training=True):
    data = dict(inputs=images, data_samples=samples(*indices))
    for index, sample in zip(indices, data['data_samples'], strict=True):
        sample.set_field(index, 'sample_idx', field_type='metainfo')
    return preprocessor(data, training)['inputs']


def in_run(seed, step):
    """Say what a runner says to its message hub."""
    MessageHub.get_current_instance().update_info_dict(dict(seed=seed, iter=step))


@pytest.fixture
def images():
    return torch.randint(0, 256, (6, 2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('to_rgb', [True, False])
def test_colours_come_before_normalisation_on_the_views_that_have_some(images, to_rgb):
    plain = colored(CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=to_rgb), images, range(6))
    preprocessor = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=to_rgb, view_colors=(None, asdict(COLOR)))
    in_run(3, 7)
    batch = colored(preprocessor, images, range(6))
    assert torch.equal(batch[0], plain[0])
    expected = COLOR.draw(keyed_uniforms(3, 7, np.arange(6), 1))
    expected = apply_color(images[:, 1].flip(1).float(), expected, COLOR)
    expected = (expected if to_rgb else expected.flip(1)).sub(preprocessor.mean).div(preprocessor.std)
    assert_close(batch[1], expected)
    assert torch.equal(colored(preprocessor, images, range(6), training=False), plain)


def test_colours_do_not_depend_on_the_split_over_ranks_but_on_seed_and_step(images):
    preprocessor = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=True, view_colors=(COLOR, COLOR))

    def run(indices, seed=0, step=5):
        in_run(seed, step)
        return colored(preprocessor, images[indices], indices)

    whole = run([0, 1, 2, 3, 4, 5])
    assert_close(torch.cat([run([0, 2, 4]), run([1, 3, 5])], 1), whole[:, [0, 2, 4, 1, 3, 5]], rtol=0, atol=1e-4)
    assert torch.equal(run([0, 1, 2, 3, 4, 5]), whole)
    assert not torch.allclose(run([0, 1, 2, 3, 4, 5], seed=1), whole)
    assert not torch.allclose(run([0, 1, 2, 3, 4, 5], step=6), whole)
    forget_runs()
    torch.manual_seed(0)
    first, second = colored(preprocessor, images, range(6)), colored(preprocessor, images, range(6))
    torch.manual_seed(0)
    assert torch.equal(colored(preprocessor, images, range(6)), first)
    assert not torch.allclose(first, second)


def test_views_are_padded_to_the_divisor_as_images_are(images):
    padded = CDSDataPreprocessor(mean=MEAN, std=STD, pad_size_divisor=16, pad_value=7)
    views = padded(dict(inputs=images, data_samples=None), True)['inputs']
    plain = padded(dict(inputs=images[:, 1], data_samples=None), True)['inputs']
    assert views.shape == (2, 6, 3, 16, 16)
    assert torch.equal(views[1], plain)


def test_rejects_colours_for_another_number_of_views_and_samples_without_index(images):
    in_run(0, 0)
    preprocessor = CDSDataPreprocessor(mean=MEAN, std=STD, view_colors=(COLOR,))
    with pytest.raises(ConfigError, match=r'the batch has 2 view\(s\), but view_colors describes 1'):
        colored(preprocessor, images, range(6))
    preprocessor = CDSDataPreprocessor(mean=MEAN, std=STD, view_colors=(COLOR, COLOR))
    with pytest.raises(ConfigError, match=r'depends on its sample_idx, but the pipeline did not pack it'):
        preprocessor(dict(inputs=images, data_samples=samples(*range(6))), True)


@pytest.mark.parametrize('ndim', [4, 5])
def test_a_batch_of_light_samples_becomes_what_a_list_of_samples_becomes(images, ndim):
    inputs = images if ndim == 5 else images[:, 0]
    preprocessor = CDSDataPreprocessor(num_classes=6, mean=MEAN, std=STD)
    listed, light = samples(0, 5, -1, 2, 3, 4), SampleBatch.pack(samples(0, 5, -1, 2, 3, 4))
    assert isinstance(light, SampleBatch)
    ours = preprocessor(dict(inputs=inputs, data_samples=light), True)
    theirs = preprocessor(dict(inputs=inputs, data_samples=listed), True)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for one, other in zip(ours['data_samples'], theirs['data_samples'], strict=True):
        assert one.gt_label.equal(other.gt_label)
        assert one.all_keys() == other.all_keys()
    with pytest.raises(ConfigError, match=r'sample None has label 7, but labels must be -1 .* or 0 to 5'):
        preprocessor(dict(inputs=inputs, data_samples=SampleBatch.pack(samples(0, 1, 2, 3, 4, 7))))


def test_rejects_labels_that_the_losses_cannot_compare():
    with pytest.raises(ConfigError, match='to_onehot is True, but the losses compare labels as numbers'):
        CDSDataPreprocessor(num_classes=3, to_onehot=True)
