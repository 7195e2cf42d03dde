"""What is watched beside the loss: closed forms and equality with plain loops."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.losses import alignment, contrast_metrics, uniformity


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize('views', [2, 3, 4])
def test_alignment_is_the_mean_squared_distance_over_pairs_of_views(views):
    rows = unit(views, 5, 4)
    distances = [(rows[v] - rows[w]).square().sum(1) for v in range(views) for w in range(v)]
    assert_close(alignment(rows), torch.stack(distances).mean())


def test_alignment_is_0_for_equal_and_4_for_opposite_views():
    row = unit(1, 5, 4)
    assert_close(alignment(torch.cat([row, row])).item(), 0.0)
    assert_close(alignment(torch.cat([row, -row])).item(), 4.0)


def test_uniformity_is_the_log_mean_of_gaussians_over_pairs_of_images():
    rows = unit(2, 6, 4)
    values = [math.exp(-2 * (view[i] - view[j]).square().sum()) for view in rows for i in range(6) for j in range(i)]
    assert_close(uniformity(rows).item(), math.log(sum(values) / len(values)))


def test_uniformity_has_closed_forms():
    assert_close(uniformity(torch.eye(4)[:1].expand(1, 5, 4)).item(), 0.0)
    assert_close(uniformity(torch.eye(4)[None]).item(), -4.0)  # all squared distances are 2
    assert_close(uniformity(torch.eye(4)[None, :1]).item(), 0.0)


def test_contrast_top1_counts_rows_whose_nearest_other_row_is_positive():
    axis = torch.eye(4)
    first = axis[[0, 1, 2, 3]]
    second = axis[[0, 2, 1, 3]]  # images 1 and 2 are nearest to each other's second view
    rows = torch.stack([first, second])
    assert_close(contrast_metrics(rows)['contrast_top1'].item(), 50.0)
    assert_close(contrast_metrics(rows, torch.tensor([0, 1, 1, 2]))['contrast_top1'].item(), 100.0)
    assert_close(contrast_metrics(rows, torch.tensor([0, -1, -1, 2]))['contrast_top1'].item(), 50.0)


def test_metrics_are_those_of_the_functions_without_gradient_and_finite_for_one_image():
    rows = unit(2, 9, 4).requires_grad_()
    found = contrast_metrics(rows)
    assert_close(found['alignment'], alignment(rows).detach())
    assert_close(found['uniformity'], uniformity(rows[:1]).detach())
    assert not any(value.requires_grad for value in found.values())
    alone = contrast_metrics(unit(2, 1, 4))
    assert all(value.isfinite() for value in alone.values())
    assert alone['contrast_top1'] == 100


def test_metrics_look_at_no_more_than_256_images():
    rows = unit(2, 300, 4)
    assert contrast_metrics(rows) == contrast_metrics(rows[:, :256])


def test_no_name_would_be_optimised_by_the_host():
    assert not [key for key in contrast_metrics(unit(2, 3, 4)) if 'loss' in key]
