"""Projection heads: the released code's sizes, the paper's form, and rows of unit length."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.heads import CDSNeck
from mmcds.heads.projection import DepthwiseConv, GlobalAvgPool, SepConv


def neck(expansion: int = 1, **kwargs) -> CDSNeck:
    widths = tuple(64 * expansion * 2**stage for stage in range(4))
    return CDSNeck(**{**dict(taps=(0, 1, 2, 3), in_channels=widths, strides=(4, 8, 16, 32)), **kwargs})


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    'expansion, per_head', [(1, (268_800, 254_976, 202_752, 0)), (4, (4_171_776, 3_969_024, 3_170_304, 0))]
)
def test_parameters_equal_those_of_the_released_code(expansion, per_head):
    with torch.device('meta'):
        heads = neck(expansion).heads
    assert tuple(count(head) for head in heads.values()) == per_head
    assert sum(per_head) == {1: 726_528, 4: 11_311_104}[expansion]


@pytest.mark.parametrize('width, wider', [(4, 8), (6, 5)])
def test_sepconv_size_follows_its_formula(width, wider):
    module = SepConv(width, wider, dict(type='BN'))
    assert count(module) == 20 * width + width**2 + width * wider + 2 * wider
    assert module(torch.randn(2, width, 7, 6)).shape == (2, wider, 4, 3)


@pytest.mark.parametrize('autocast', [True, False])
@pytest.mark.parametrize('stride', [1, 2])
def test_depthwise_convolution_in_bfloat16_is_that_of_float32_within_rounding(stride, autocast):
    def run(conv: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
        image = image.detach().clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast and conv is module):
            output = conv(image)
        output.backward(slope.to(output.dtype))
        return [output, image.grad, conv.weight.grad]

    torch.manual_seed(0)
    image, slope = (torch.randn(2, 6, side, side).bfloat16() for side in (9, 9 if stride == 1 else 5))
    module, exact = DepthwiseConv(6, stride), nn.Conv2d(6, 6, 3, stride, 1, groups=6, bias=False)
    with torch.no_grad():
        module.weight.copy_(module.weight.bfloat16())
        exact.weight.copy_(module.weight)
    if not autocast:
        module.bfloat16()
    for found, expected in zip(run(module, image), run(exact, image.float()), strict=True):
        # CPUs without arithmetic in bfloat16 round partial sums too: a few units of 2**-8 of the largest entry
        assert (found.float() - expected).abs().max() <= 2**-6 * expected.abs().max()
    assert module(image.to(module.weight.dtype)).dtype == module.weight.dtype


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_pooling_is_that_of_pytorch_and_its_gradient_has_the_layout_of_the_map(layout):
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    relu = x.relu()  # a leaf's gradient would be brought to the leaf's layout in any case
    layouts = []
    relu.register_hook(lambda grad: layouts.append(grad.is_contiguous(memory_format=layout)))
    weights = torch.randn(2, 5, 1, 1, dtype=torch.float64)
    found = GlobalAvgPool()(relu)
    (grad,) = torch.autograd.grad((found * weights).sum(), x)
    expected = nn.AdaptiveAvgPool2d(1)(x.relu())
    assert_close(found, expected)
    assert_close(grad, torch.autograd.grad((expected * weights).sum(), x)[0])
    assert layouts == [True]


def test_last_stage_gives_its_pooled_feature():
    feature = torch.randn(3, 512, 2, 2).relu()
    maps = [torch.randn(3, 64 * 2**s, 16 // 2**s, 16 // 2**s) for s in range(3)] + [feature]
    rows = neck()(maps)
    assert [tuple(row.shape) for row in rows] == [(3, 512)] * 4
    assert_close(rows[3], F.normalize(feature.mean((2, 3)), dim=1))


@pytest.mark.parametrize('head', ['sepconv', 'sepconv+mlp', 'mlp'])
def test_rows_have_unit_length_at_any_image_size(head):
    small = neck(in_channels=(8, 16, 32, 64), head=head, out_channels=12)
    for side in (4, 7, 16):
        maps = [torch.randn(3, 8 * 2**s, max(1, side // 2**s), max(1, side // 2**s)) for s in range(4)]
        for row in small(maps):
            assert row.shape == (3, 64 if head == 'sepconv' else 12)
            assert_close(row.norm(dim=1), torch.ones(3))


def test_projection_is_linear_relu_linear_after_the_convolutions():
    module = neck(in_channels=(8, 16, 32, 64), head='sepconv+mlp', hidden_channels=24, out_channels=12)
    assert [type(layer).__name__ for layer in module.heads['stage2']] == [
        'SepConv',
        'GlobalAvgPool',
        'Flatten',
        'Linear',
        'ReLU',
        'Linear',
    ]
    assert (module.heads['stage2'][3].out_features, module.heads['stage2'][5].out_features) == (24, 12)


def test_a_zero_feature_has_a_finite_gradient():
    feature = torch.zeros(2, 512, 2, 2, requires_grad=True)
    CDSNeck(taps=(3,), in_channels=(512,), strides=(32,))([feature])[0].sum().backward()
    assert feature.grad.isfinite().all()
    assert feature.grad.abs().max() <= 1e6


def test_half_features_give_float32_rows():
    module = CDSNeck(taps=(3,), in_channels=(8,), strides=(32,))
    assert module([torch.randn(2, 8, 2, 2, dtype=torch.bfloat16)])[0].dtype == torch.float32
    assert module([torch.randn(2, 8, 2, 2, dtype=torch.float64)])[0].dtype == torch.float64


def test_initial_weights_are_kaiming_fan_out():
    torch.manual_seed(0)
    module = neck(4)
    module.init_weights()
    depthwise, pointwise = module.heads['stage0'][2][0].weight, module.heads['stage0'][2][1].weight
    channels = depthwise.shape[0]
    assert_close(depthwise.std().item(), (2 / (9 * channels)) ** 0.5, rtol=0.05, atol=0)
    assert_close(pointwise.std().item(), (2 / channels) ** 0.5, rtol=0.05, atol=0)


def test_rejects_an_unknown_head():
    with pytest.raises(ConfigError, match=r"CDSNeck: head is 'conv'; choose one of sepconv, sepconv\+mlp, mlp"):
        neck(head='conv')


def test_rejects_sequences_of_different_length():
    with pytest.raises(ConfigError, match='taps, in_channels and strides have 3, 4 and 4 entries'):
        neck(taps=(0, 1, 2))
