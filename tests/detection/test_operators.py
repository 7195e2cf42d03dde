"""mmcv's operators without a compiler: equal to slow, independent formulas, through mmcv's own functions."""

import logging
import math
import sys
import types

import pytest
import torch
from mmcv.ops import (
    RoIAlign,
    RoIPool,
    batched_nms,
    border_align,
    deform_conv2d,
    modulated_deform_conv2d,
    nms,
    nms_match,
    sigmoid_focal_loss,
    soft_nms,
)
from mmcv.ops.deform_conv import DeformConv2dFunction
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.detection import operators

MODULES = [
    sys.modules[f'mmcv.ops.{name}']
    for name in ('nms', 'roi_align', 'roi_pool', 'focal_loss', 'deform_conv', 'modulated_deform_conv', 'border_align')
]


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    """mmcv calls the stand-in, also where compiled operators exist."""
    module = operators.stand_in()
    for user in MODULES:
        monkeypatch.setattr(user, 'ext_module', module)


def boxes_and_scores(count: int, whole: bool, seed: int = 0):
    """Overlapping boxes; whole numbers give many overlaps that equal a threshold, and repeated scores give ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * 12], 1)
    scores = torch.rand(count, generator=generator)
    return (boxes.round(), (scores * 10).round() / 10) if whole else (boxes, scores)


def iou(a, b, offset):
    """In float32, as mmcv's kernels."""
    a, b = a.numpy(), b.numpy()
    one, zero = a.dtype.type(offset), a.dtype.type(0)
    width = max(zero, min(a[2], b[2]) - max(a[0], b[0]) + one)
    height = max(zero, min(a[3], b[3]) - max(a[1], b[1]) + one)
    common = width * height
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return float(common / (areas[0] + areas[1] - common))


def naive_nms(boxes, scores, threshold, offset):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):  # stable: ties keep their order
        if all(iou(boxes[k], boxes[i], offset) <= float(torch.tensor(threshold)) for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('whole', [False, True])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.5, 0.7])
def test_nms_keeps_the_indices_of_the_naive_loop_also_for_ties(whole, offset, threshold):
    boxes, scores = boxes_and_scores(80, whole)
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == naive_nms(boxes, scores, threshold, offset)
    assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], 1))


def test_nms_of_an_overlap_that_equals_the_threshold_keeps_both_boxes():
    """3 of 10 common pixels: in float64 0.3 is less than the float32 overlap, and mmcv compares float32."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.29)[1].tolist() == [0]


def test_nms_of_nothing_is_nothing_and_of_half_precision_scores_what_it_is_of_float():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes, scores = boxes_and_scores(40, whole=True)
    assert nms(boxes, scores.bfloat16(), 0.5)[1].tolist() == nms(boxes, scores.bfloat16().float(), 0.5)[1].tolist()


def test_batched_nms_never_compares_boxes_of_two_classes():
    boxes, scores = boxes_and_scores(60, whole=True)
    classes = torch.arange(60) % 3
    _, kept = batched_nms(boxes, scores, classes, dict(type='nms', iou_threshold=0.4))
    expected = {
        int(index)
        for c in range(3)
        for index in torch.arange(60)[classes == c][naive_nms(boxes[classes == c], scores[classes == c], 0.4, 0)]
    }
    assert set(kept.tolist()) == expected


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_soft_nms_lowers_scores_as_the_paper_says(method, offset):
    boxes, scores = boxes_and_scores(30, whole=False)
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.05, method, offset)
    left, current, expected = list(range(30)), scores.tolist(), []
    while left:
        best = max(left, key=lambda i: current[i])
        left.remove(best)
        expected.append((best, current[best]))
        for i in left:
            overlap = iou(boxes[best], boxes[i], offset)
            above = 1.0 if overlap < 0.3 else {'naive': 0.0, 'linear': 1 - overlap}.get(method)
            current[i] *= math.exp(-overlap * overlap / 0.5) if method == 'gaussian' else above
        left = [i for i in left if current[i] >= 0.05]
    assert kept.tolist() == [index for index, _ in expected]
    assert_close(dets[:, 4], torch.tensor([score for _, score in expected]))
    assert_close(dets[:, :4], boxes[kept])


def test_naive_soft_nms_is_nms():
    boxes, scores = boxes_and_scores(60, whole=False)
    soft = soft_nms(boxes, scores, 0.4, min_score=1e-3, method='naive')[1]
    assert soft.tolist() == nms(boxes, scores, 0.4)[1].tolist()


def test_nms_match_groups_every_box_with_the_one_that_removes_it():
    boxes, scores = boxes_and_scores(60, whole=False)
    groups = [group.tolist() for group in nms_match(torch.cat([boxes, scores[:, None]], 1), 0.4)]
    assert [group[0] for group in groups] == naive_nms(boxes, scores, 0.4, 0)
    assert sorted(index for group in groups for index in group) == list(range(60))
    for position, (head, *rest) in enumerate(groups):
        assert all(iou(boxes[head], boxes[i], 0) >= 0.4 for i in rest)
        for earlier in groups[:position]:
            assert all(iou(boxes[earlier[0]], boxes[i], 0) < 0.4 for i in (head, *rest))


def bilinear(plane, y, x):
    """Value of a plane (H, W) between its pixels; outside by more than one pixel it is zero (RoIAlign's rule)."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.sum() * 0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    v, u = y - top, x - left
    return (1 - v) * ((1 - u) * plane[top, left] + u * plane[top, right]) + v * (
        (1 - u) * plane[bottom, left] + u * plane[bottom, right]
    )


def slow_roi_align(feature, rois, size, scale, samples, aligned):
    rows = []
    for image, *corners in rois.tolist():
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1), max(height, 1)
        per_y = samples or math.ceil(height / size[0])
        per_x = samples or math.ceil(width / size[1])
        for plane in feature[int(image)]:
            for i in range(size[0]):
                for j in range(size[1]):
                    values = [
                        bilinear(
                            plane,
                            y1 + (i + (a + 0.5) / per_y) * height / size[0],
                            x1 + (j + (b + 0.5) / per_x) * width / size[1],
                        )
                        for a in range(per_y)
                        for b in range(per_x)
                    ]
                    rows.append(sum(values) / max(per_y * per_x, 1))
    return torch.stack(rows).view(len(rois), feature.shape[1], *size)


ROIS = torch.tensor(
    [[0, 1.3, 2.2, 9.9, 7.3], [1, -3.0, -2.0, 5.0, 30.0], [1, 6.0, 6.0, 6.2, 6.3], [0, 0.0, 0.0, 16.0, 12.0]]
)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('samples', [0, 2])
def test_roi_align_values_and_gradients_equal_bilinear_interpolation(aligned, samples):
    torch.manual_seed(0)
    feature = torch.randn(2, 2, 6, 8, requires_grad=True)
    upstream = torch.randn(len(ROIS), 2, 3, 2)
    found = RoIAlign((3, 2), 0.5, samples, aligned=aligned)(feature, ROIS)
    expected = slow_roi_align(feature, ROIS, (3, 2), 0.5, samples, aligned)
    assert_close(found, expected, atol=1e-5, rtol=0)
    (ours,) = torch.autograd.grad(found, feature, upstream)
    (theirs,) = torch.autograd.grad(expected, feature, upstream)
    assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_roi_align_of_half_precision_and_of_no_rois():
    feature = torch.randn(1, 2, 6, 8)
    whole = RoIAlign(2, 1.0, 2)(feature, ROIS[:1])
    half = RoIAlign(2, 1.0, 2)(feature.bfloat16().requires_grad_(), ROIS[:1].bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), whole, atol=0.05, rtol=0.05)
    half.sum().backward()
    assert RoIAlign(2, 1.0, 2)(feature, ROIS[:0]).shape == (0, 2, 2, 2)


def window_of(start, end, index, count):
    """First and behind-last pixel of a bin; a slice cuts what lies behind the image by itself."""
    side = (end - start) / count
    return max(math.floor(start + index * side), 0), max(math.ceil(start + (index + 1) * side), 0)


def test_roi_pool_is_the_largest_pixel_of_each_bin_and_its_gradient_goes_there():
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 6, 8, requires_grad=True)
    found = RoIPool((3, 2), 0.5)(feature, ROIS)
    expected = torch.zeros_like(found)
    for r, (image, *corners) in enumerate(ROIS.tolist()):
        x1, y1, x2, y2 = corners[0] * 0.5, corners[1] * 0.5, (corners[2] + 1) * 0.5, (corners[3] + 1) * 0.5
        for i in range(3):
            for j in range(2):
                rows = slice(*window_of(y1, y2, i, 3))
                columns = slice(*window_of(x1, x2, j, 2))
                window = feature[int(image), :, rows, columns].flatten(1)
                if window.shape[1]:
                    expected[r, :, i, j] = window.amax(1)
    assert_close(found, expected)
    upstream = torch.randn_like(found)
    (ours,) = torch.autograd.grad(found, feature, upstream)
    (theirs,) = torch.autograd.grad(expected, feature, upstream)
    assert_close(ours, theirs)


def test_roi_pool_of_an_inverted_roi_is_zero_without_gradient():
    feature = torch.rand(1, 1, 4, 4, requires_grad=True)
    found = RoIPool(2, 1.0)(feature, torch.tensor([[0.0, 3, 3, 1, 1]]))
    found.sum().backward()
    assert found.abs().sum() == 0
    assert feature.grad.abs().sum() == 0


@pytest.mark.parametrize('gamma', [0.0, 2.0, 1.5])
def test_focal_loss_is_its_closed_form_and_has_its_derivative(gamma):
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 4, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 4, 0, 4])  # 4 is background
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    found = sigmoid_focal_loss(logits, target, gamma, 0.25, weight, 'none')
    for i in range(7):
        for k in range(4):
            p = 1 / (1 + math.exp(-float(logits.detach()[i, k])))
            loss = -0.25 * (1 - p) ** gamma * math.log(p) if target[i] == k else -0.75 * p**gamma * math.log(1 - p)
            assert float(found.detach()[i, k]) == pytest.approx(
                loss * (float(weight[target[i]]) if target[i] < 4 else 1.0)
            )
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, target, gamma, 0.25, weight, 'none').sum(), logits)


def test_focal_loss_without_focusing_is_binary_cross_entropy_and_huge_logits_stay_finite():
    logits, target = torch.tensor([[2.0, -1.0], [200.0, -300.0]], requires_grad=True), torch.tensor([0, 1])
    found = sigmoid_focal_loss(logits, target, 0.0, 0.5, None, 'none')
    expected = F.binary_cross_entropy_with_logits(logits, F.one_hot(target, 2).float(), reduction='none')
    assert_close(found, 0.5 * expected)
    sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum').backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('groups', [1, 2])
def test_deformable_convolution_without_offsets_is_a_convolution(groups):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4 // groups, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, weight, bias, stride=(2, 1), padding=(1, 2), dilation=1, groups=groups)
    offset = torch.zeros(2, 2 * 18, *plain.shape[2:], dtype=torch.float64)
    mask = torch.ones(2, 2 * 9, *plain.shape[2:], dtype=torch.float64)
    first = deform_conv2d(x, offset, weight, (2, 1), (1, 2), 1, groups, 2)
    second = modulated_deform_conv2d(x, offset, mask, weight, bias, (2, 1), (1, 2), 1, groups, 2)
    assert_close(first, plain - bias.view(-1, 1, 1))
    assert_close(second, plain)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, weight, bias), upstream)
    assert_close(torch.autograd.grad(first, (x, weight), upstream), expected[:2])
    assert_close(torch.autograd.grad(second, (x, weight, bias), upstream), expected)


def test_whole_offsets_move_the_samples_of_a_convolution():
    """One row down and two columns to the left: a convolution of the shifted image, away from the border."""
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 9, 9), torch.randn(3, 2, 3, 3)
    offset = torch.tensor([1.0, -2.0]).repeat(9).view(1, 18, 1, 1).expand(1, 18, 9, 9).contiguous()
    found = deform_conv2d(x, offset, weight, 1, 1)
    assert_close(found[:, :, 2:-2, 3:-1], F.conv2d(x, weight, padding=1)[:, :, 3:-1, 1:-3])


@pytest.mark.parametrize('modulated', [False, True])
def test_gradients_of_deformable_convolution_are_derivatives(modulated):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    offset = 0.3 * torch.rand(1, 8, 3, 3, dtype=torch.float64) + 0.1  # away from whole numbers, where it has kinks
    mask, bias = torch.rand(1, 4, 3, 3, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    inputs = (x, offset, mask, weight, bias) if modulated else (x, offset, weight)
    function = modulated_deform_conv2d if modulated else DeformConv2dFunction.apply
    assert torch.autograd.gradcheck(function, tuple(tensor.requires_grad_() for tensor in inputs))


def test_an_operator_without_emulation_names_itself_and_the_way_to_get_it():
    with pytest.raises(
        ConfigError, match=r'_ext\.border_align_forward is not compiled .* compile mmcv: take the source'
    ):
        border_align(torch.zeros(1, 4, 4, 4), torch.zeros(1, 16, 4), 2)
    with pytest.raises(ConfigError, match=r"pool_mode='max' is not among the emulated .* Use pool_mode='avg'"):
        RoIAlign(2, pool_mode='max')(torch.zeros(1, 1, 4, 4), ROIS[:1])


def test_environment_table_of_the_host_names_the_emulation():
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version

    assert 'emulated by torchvision' in get_compiler_version()
    assert get_compiling_cuda_version() == 'none'


@pytest.mark.skipif(operators.is_emulated(), reason='mmcv has no compiled operators here')
def test_the_stand_in_gives_what_the_compiled_operators_give(monkeypatch):
    boxes, scores = boxes_and_scores(200, whole=True)
    scores = scores + torch.arange(200) * 1e-4  # compiled operators do not promise an order of ties
    feature, target = torch.randn(2, 3, 6, 8), torch.arange(20) % 5

    def everything():
        x = feature.clone().requires_grad_()
        pooled = RoIAlign((3, 2), 0.5)(x, ROIS)
        logits = torch.linspace(-5, 5, 80).view(20, 4).requires_grad_()
        loss = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'sum')
        return [
            *(nms(boxes, scores, 0.4, offset=offset)[1] for offset in (0, 1)),
            *soft_nms(boxes, scores, 0.3, method='gaussian'),
            pooled,
            torch.autograd.grad(pooled.square().sum(), x)[0],
            loss,
            torch.autograd.grad(loss, logits)[0],
        ]

    ours = everything()
    for user in MODULES:
        monkeypatch.setattr(user, 'ext_module', sys.modules[operators.NAME])
    assert_close(ours, everything(), atol=1e-5, rtol=1e-5)


def test_compiled_operators_win(monkeypatch):
    compiled = types.ModuleType(operators.NAME)
    monkeypatch.setitem(sys.modules, operators.NAME, compiled)
    assert not operators.install_operators()
    assert sys.modules[operators.NAME] is compiled
    assert operators.operators_problem() is None


def test_operators_that_were_built_for_another_torch_are_replaced_and_one_line_says_why(monkeypatch, caplog):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == operators.NAME:
                raise ImportError('_ext.so: undefined symbol: _ZN3c10')

    monkeypatch.delitem(sys.modules, operators.NAME)
    monkeypatch.setattr(sys, 'meta_path', [Broken(), *sys.meta_path])
    lines = []
    logger = logging.Handler()
    logger.emit = lambda record: lines.append(record.getMessage())
    from mmengine.logging import MMLogger

    MMLogger.get_current_instance().addHandler(logger)
    assert [operators.install_operators() for _ in range(2)] == [True, True]
    assert len(lines) == 1
    for part in ('undefined symbol', 'roi_align', 'sigmoid_focal_loss'):
        assert part in lines[0]
