"""bfloat16 on a CPU: the same numbers with and without instructions for it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmcds.openmmlab import optim
from mmcds.openmmlab.optim import float32_products

CONFIG = Path(__file__).parents[2] / 'configs/cds/resnet18w16_fashion.py'
#: Distance of neighbouring numbers of bfloat16, relative to the power of two below them.
STEP = 2.0**-7
VALUES = torch.arange(336.0).view(2, 3, 7, 8) % 5
CASES = {
    'conv1d': ((4, 6, 9), (8, 6, 3), F.conv1d),
    'conv2d': ((4, 6, 9, 9), (8, 6, 3, 3), lambda x, w: F.conv2d(x, w, stride=2, padding=1)),
    'conv2d, same': ((4, 6, 9, 9), (8, 6, 3, 3), lambda x, w: F.conv2d(x, w, padding='same')),
    'depthwise': ((4, 6, 9, 9), (6, 1, 3, 3), lambda x, w: F.conv2d(x, w, padding=1, groups=6)),
    'conv_transpose2d': ((4, 6, 5, 5), (6, 8, 2, 2), lambda x, w: F.conv_transpose2d(x, w, stride=2)),
    'linear': ((16, 40), (24, 40), F.linear),
    'matmul': ((3, 16, 40), (3, 40, 24), torch.matmul),
    'einsum': ((3, 16, 40), (3, 24, 40), lambda x, w: torch.einsum('bij,bkj->bik', x, w)),
    'attention': ((2, 3, 7, 8), (2, 3, 7, 8), lambda x, w: F.scaled_dot_product_attention(x, w, VALUES.to(x.dtype))),
}


@pytest.fixture
def products():
    """Compute products in float32, and forget it afterwards."""
    yield float32_products()
    float32_products.cache_clear()


@pytest.mark.parametrize('case', CASES)
def test_products_and_gradients_are_those_of_rounded_factors(case, products):
    """Against float64: results and gradients are those of the rounded factors, rounded once themselves."""
    x_shape, w_shape, product = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator, requires_grad=True) for shape in (x_shape, w_shape))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = product(x, w)
    assert result.dtype == torch.bfloat16
    grad = torch.randn(result.shape, generator=generator).bfloat16()
    found = torch.autograd.grad(result, (x, w), grad)

    x64, w64 = (each.detach().bfloat16().double().requires_grad_() for each in (x, w))
    exact = product(x64, w64)
    wanted = torch.autograd.grad(exact, (x64, w64), grad.double())
    for ours, theirs in zip((result, *found), (exact, *wanted), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=STEP / 2 * 1.01, atol=1e-5)


@pytest.mark.parametrize('case', sorted(CASES.keys() - {'attention'}))  # which rounds in between, in a way of each CPU
def test_they_equal_pytorchs_own(case, products):
    """PyTorch's kernels of bfloat16, whichever it has for this CPU, differ by the order of their sums alone."""
    x_shape, w_shape, product = CASES[case]
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=generator, requires_grad=True) for shape in (x_shape, w_shape))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        ours = product(x, w)
    theirs = product(x.bfloat16(), w.bfloat16())  # outside of autocast nothing has changed
    pairs = [(ours, theirs)]
    pairs += zip(*(torch.autograd.grad(each, (x, w), torch.ones_like(each)) for each in (ours, theirs)), strict=True)
    for one, other in pairs:
        assert one.dtype == other.dtype
        torch.testing.assert_close(one.float(), other.float(), rtol=2 * STEP, atol=STEP * other.abs().max().item())


def test_nothing_else_changes(products):
    """Losses, which leave autocast, float64 and float16 are computed as ever."""
    x, w = torch.randn(4, 6, 9, 9), torch.randn(8, 6, 3, 3)
    assert F.conv2d(x, w).dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert F.conv2d(x.double(), w.double()).dtype == torch.float64
        with torch.autocast('cpu', enabled=False):
            assert (x[0, 0] @ x[0, 0].T).dtype == torch.float32
    with torch.autocast('cpu', dtype=torch.float16):
        assert torch.equal(F.conv2d(x, w), torch.ops.aten.conv2d(x.half(), w.half()))


def _gradients(recompute: bool = False) -> dict:
    """Let a small CDS take a step in bfloat16; return its gradients."""
    torch.manual_seed(0)
    config = Config.fromfile(CONFIG)
    config.model.recompute_stages = recompute
    model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train()
    optimizer = dict(type='SGD', lr=0.0)
    wrapper = build_optim_wrapper(model, dict(type='mmpretrain.BF16OptimWrapper', optimizer=optimizer))
    wrapper.zero_grad = lambda **_: None  # gradients stay where they are
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (8, 2, 3, 28, 28), generator=generator, dtype=torch.uint8)
    model.train_step(dict(inputs=inputs, data_samples=[DataSample().set_gt_label(i % 4) for i in range(8)]), wrapper)
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_a_step_is_that_of_a_cpu_with_bfloat16(monkeypatch, products):
    """A step uses them where the CPU lacks bfloat16, and recomputed stages too: not a bit of a gradient changes."""
    calls = []
    monkeypatch.setattr(optim, 'float32_products', lambda: calls.append(1))
    monkeypatch.setattr(optim, 'cpu_knows_bfloat16', lambda: True)
    kept = _gradients()
    assert not calls
    monkeypatch.setattr(optim, 'cpu_knows_bfloat16', lambda: False)
    again = _gradients(recompute=True)
    assert calls
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
