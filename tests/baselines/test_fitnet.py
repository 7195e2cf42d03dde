"""FitNet: the hint, its two reductions, and regressors for other widths and sizes."""

import pytest
import torch
from baseline_cases import STUDENT, TEACHER, network, outputs
from torch.testing import assert_close

from mmcds.baselines import FitNetSupervision
from mmcds.baselines.fitnet import Regressor, hint_loss
from mmcds.core.errors import ConfigError


@pytest.mark.parametrize('shape', [(1, 1, 1, 1), (3, 5, 4, 4)])
def test_constant_maps_give_their_squared_difference_whatever_their_size(shape):
    student, teacher = torch.zeros(shape), torch.full(shape, 2.0)
    assert hint_loss(student, teacher).item() == 4.0
    elements = shape[1] * shape[2] * shape[3]
    assert hint_loss(student, teacher, 'half-sum').item() == 2.0 * elements


@pytest.mark.parametrize('side, expected', [(4, 'Conv2d'), (8, 'Conv2d'), (2, 'ConvTranspose2d')])
def test_the_usual_ratios_have_the_convolution_of_the_common_code(side, expected):
    ratio = side / 4
    regressor = Regressor(3, 6, ratio)
    kernel, stride = {1: ((1, 1), (1, 1)), 2: ((3, 3), (2, 2)), 0.5: ((4, 4), (2, 2))}[ratio]
    assert (type(regressor.conv).__name__, regressor.conv.kernel_size, regressor.conv.stride) == (
        expected,
        kernel,
        stride,
    )
    assert regressor(torch.randn(2, 3, side, side), torch.Size((4, 4))).shape == (2, 6, 4, 4)


@pytest.mark.parametrize('height, width, size', [(12, 12, (4, 4)), (3, 5, (6, 10)), (2, 2, (7, 7)), (7, 7, (4, 4))])
def test_any_other_ratio_is_brought_to_the_teachers_size(height, width, size):
    regressor = Regressor(3, 6, height / size[0])
    out = regressor(torch.randn(2, 3, height, width), torch.Size(size))
    assert out.shape == (2, 6, *size)
    assert out.min() >= 0


def test_sizes_are_measured_when_the_model_is_built():
    supervision = FitNetSupervision(taps=(0, 1), teacher_taps=(1, 0))
    supervision.build(network())
    kinds = {name: type(regressor.conv).__name__ for name, regressor in supervision.regressors.items()}
    assert kinds == {'stage0': 'Conv2d', 'stage1': 'ConvTranspose2d'}
    assert supervision.regressors['stage0'].conv.stride == (2, 2)
    assert supervision.regressors['stage1'].conv.out_channels == TEACHER[0][0]


def test_supervision_is_the_weighted_hint_of_the_regressed_map():
    supervision = FitNetSupervision(taps=(2,), loss_weight=7.0).double()
    supervision.build(network())
    supervision.double().eval()
    found = outputs()
    value = supervision(found)['stage2.loss_hint']
    regressed = supervision.regressors['stage2'](found.features[2], torch.Size((STUDENT[2][1],) * 2))
    assert_close(value, 7 * (regressed - found.teacher.features[2]).square().mean())


def test_bad_input_is_named():
    with pytest.raises(ConfigError, match="reduction is 'sum'; choose one of mean, half-sum"):
        FitNetSupervision(reduction='sum')
    with pytest.raises(ConfigError, match='taps is empty'):
        FitNetSupervision(taps=())
    with pytest.raises(ConfigError, match=r'student has taps \(1,\) and the teacher \(1, 2\)'):
        FitNetSupervision(teacher_taps=(1, 2))
