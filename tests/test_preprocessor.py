"""The data preprocessor: V views in training, plain images at test time."""

import pytest
import torch
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.errors import ConfigError
from mmcds.preprocessor import CDSDataPreprocessor

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
