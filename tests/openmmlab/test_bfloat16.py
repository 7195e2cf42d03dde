"""bfloat16 on a CPU: the same numbers with and without instructions for it."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils._python_dispatch import TorchDispatchMode

from mmcds.openmmlab import optim
from mmcds.openmmlab.optim import float32_products

CONFIG = Path(__file__).parents[2] / 'configs/cds/resnet18w16_fashion.py'
#: Distance of neighbouring numbers of bfloat16, relative to the power of two below them.
STEP = 2.0**-7
VALUES = torch.arange(336.0).view(2, 3, 7, 8) % 5
BIAS = torch.arange(24.0) % 5
#: Shapes of two factors and a product of them, by the name it has in PRODUCTS.
CASES = {
    'conv1d': ((4, 6, 9), (8, 6, 3), F.conv1d),
    'conv2d': ((4, 6, 9, 9), (8, 6, 3, 3), lambda x, w: F.conv2d(x, w, stride=2, padding=1)),
    'conv3d': ((2, 6, 4, 5, 5), (8, 6, 3, 3, 3), F.conv3d),
    'conv1d.padding': ((4, 6, 9), (8, 6, 3), lambda x, w: F.conv1d(x, w, padding='same')),
    'conv2d.padding': ((4, 6, 9, 9), (8, 6, 3, 3), lambda x, w: F.conv2d(x, w, padding='same')),
    'conv3d.padding': ((2, 6, 4, 5, 5), (8, 6, 3, 3, 3), lambda x, w: F.conv3d(x, w, padding='same')),
    'conv_transpose1d': ((4, 6, 5), (6, 8, 2), lambda x, w: F.conv_transpose1d(x, w, stride=2)),
    'conv_transpose2d.input': ((4, 6, 5, 5), (6, 8, 2, 2), lambda x, w: F.conv_transpose2d(x, w, stride=2)),
    'conv_transpose3d.input': ((2, 6, 3, 4, 4), (6, 8, 2, 2, 2), lambda x, w: F.conv_transpose3d(x, w, stride=2)),
    'linear': ((16, 40), (24, 40), F.linear),
    'matmul': ((3, 16, 40), (3, 40, 24), torch.matmul),
    'mm': ((16, 40), (40, 24), torch.mm),
    'bmm': ((3, 16, 40), (3, 40, 24), torch.bmm),
    'addmm': ((16, 40), (40, 24), lambda x, w: torch.addmm(BIAS.to(x.dtype), x, w)),
    'baddbmm': ((3, 16, 40), (3, 40, 24), lambda x, w: torch.baddbmm(BIAS.to(x.dtype), x, w)),
    'scaled_dot_product_attention': (
        (2, 3, 7, 8),
        (2, 3, 7, 8),
        lambda x, w: F.scaled_dot_product_attention(x, w, VALUES.to(x.dtype)),
    ),
    'conv2d of each channel': ((4, 6, 9, 9), (6, 1, 3, 3), lambda x, w: F.conv2d(x, w, padding=1, groups=6)),
    'einsum': ((3, 16, 40), (3, 24, 40), lambda x, w: torch.einsum('bij,bkj->bik', x, w)),
}
ROUNDED_WITHIN = {'scaled_dot_product_attention'}  # by PyTorch, in a way of each CPU


@pytest.fixture
def products():
    """Compute products in float32, and forget it afterwards."""
    yield float32_products()
    float32_products.cache_clear()


class Case:
    """Two random factors of float32, and their product under autocast."""

    def __init__(self, name: str):
        x_shape, w_shape, self.product = CASES[name]
        generator = torch.Generator().manual_seed(0)
        self.x, self.w = (torch.randn(s, generator=generator, requires_grad=True) for s in (x_shape, w_shape))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            self.result = self.product(self.x, self.w)
        self.grad = torch.randn(self.result.shape, generator=generator).bfloat16()
        self.found = (self.result, *torch.autograd.grad(self.result, (self.x, self.w), self.grad))


class Multiplications(TorchDispatchMode):
    """Note the type of numbers of every kernel that multiplies two arrays."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, kernel, types, args=(), kwargs=None):
        if re.search('conv|mm|scaled_dot', kernel.__name__):
            self.types |= {each.dtype for each in args if isinstance(each, torch.Tensor)}
        return kernel(*args, **(kwargs or {}))


def test_every_product_has_a_case():
    assert set(optim.PRODUCTS) <= CASES.keys()


@pytest.mark.parametrize('name', CASES)
def test_float32_alone_is_multiplied(name, request):
    """Forwards and backwards; PyTorch's own autocast multiplies in bfloat16."""
    with Multiplications() as usual:
        Case(name)
    assert torch.bfloat16 in usual.types
    request.getfixturevalue('products')
    with Multiplications() as ours:
        Case(name)
    assert ours.types == {torch.float32}


@pytest.mark.parametrize('name', CASES)
def test_products_and_gradients_are_those_of_rounded_factors(name, products):
    """Against float64: results and gradients are those of the rounded factors, rounded once themselves."""
    case = Case(name)
    assert case.result.dtype == torch.bfloat16
    x, w = (factor.detach().bfloat16().double().requires_grad_() for factor in (case.x, case.w))
    result = case.product(x, w)
    exact = (result, *torch.autograd.grad(result, (x, w), case.grad.double()))
    for found, wanted in zip(case.found, exact, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=STEP / 2 * 1.01, atol=1e-5)


@pytest.mark.parametrize('name', sorted(CASES.keys() - ROUNDED_WITHIN))
def test_they_equal_pytorchs_own(name, products):
    """PyTorch's kernels of bfloat16, whichever it has for this CPU, differ by the order of their sums alone."""
    case = Case(name)
    result = case.product(case.x.bfloat16(), case.w.bfloat16())  # outside of autocast nothing has changed
    theirs = (result, *torch.autograd.grad(result, (case.x, case.w), case.grad))
    for found, other in zip(case.found, theirs, strict=True):
        assert found.dtype == other.dtype
        torch.testing.assert_close(found.float(), other.float(), rtol=2 * STEP, atol=STEP * other.abs().max().item())


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
