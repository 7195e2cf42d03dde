"""The Triton kernels of the contrastive losses: equal to plain formulas in the interpreter, compiled for a GPU.

What runs kernels is named ``kernel_*`` and collected in a process with Triton's interpreter, see
:func:`test_kernels_in_the_interpreter`. The tiles there are 16 x 32, those of products with all columns 16 x 128.
"""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.losses import fused
from mmcds.losses.fused import PRECISIONS, fused_contrast, usable

CPU = torch.device('cpu')


def unit(*shape, seed=0):
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(rows, dim=-1)


def formula(rows, ids, scale, views, local, positives):
    """Both numbers of every anchor, one anchor after the other."""
    all_rows, positive = [], []
    for anchor in torch.arange(len(ids)).view(views, -1)[:, local or slice(None)].flatten().tolist():
        others = [row for row in range(len(ids)) if row != anchor]
        same = [row for row in others if ids[row] == ids[anchor]]
        scores = scale * torch.einsum('td,tmd->tm', rows[:, anchor], rows)
        all_rows.append(scores[:, others].exp().sum(1).log())
        positive.append(scores[:, same].exp().sum(1).log() if positives == 'in' else scores[:, same].sum(1))
    return torch.stack(all_rows, 1), torch.stack(positive, 1)


def values_and_grads(function, rows, *more):
    """Values, and gradients of a weighted sum of them."""
    values = function(rows, *more)
    draw = torch.Generator().manual_seed(9)
    weights = [torch.randn(value.shape, generator=draw, dtype=torch.float64).to(value) for value in values]
    inputs = [tensor for tensor in (rows, *more) if isinstance(tensor, torch.Tensor) and tensor.requires_grad]
    return *(value.detach() for value in values), *torch.autograd.grad(values, inputs, weights)


def assert_near(found, expected, value_error=1e-6, grad_error=5e-6):
    """The first two are values, the others gradients; errors are relative to the largest entry, or to 1."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.dtype == torch.float32
        error = (one - other).abs().max() / other.abs().max().clamp(min=1)
        assert error <= (value_error if number < 2 else grad_error), (number, error)


def problem(taps, views, images, width, labels, seed=0):
    rows = unit(taps, views * images, width, seed=seed)
    own = torch.arange(images)
    ids = {'few': own % 4, 'one': own * 0 + 7, 'own': own * 2**33}[labels].repeat(views)
    return rows, ids


#: T, V, N, D, anchors, labels, positives, temperature.
CASES = [
    (1, 2, 24, 20, None, 'few', 'out', 0.07),
    (3, 2, 13, 64, None, 'few', 'in', 0.07),
    (1, 3, 17, 130, slice(5, 12), 'few', 'out', 0.07),
    (3, 3, 9, 20, slice(2, 5), 'few', 'in', 0.07),
    (2, 2, 33, 20, slice(0, 3), 'few', 'in', 0.01),
    (1, 2, 40, 20, slice(37, 40), 'own', 'out', 0.01),
    (2, 2, 20, 20, None, 'one', 'out', 0.01),
    (1, 2, 21, 130, None, 'one', 'in', 0.07),
    (1, 2, 19, 20, None, 'own', 'in', 0.01),
    (1, 2, 16, 64, None, 'own', 'out', 0.5),
    (2, 2, 1, 20, None, 'own', 'out', 0.07),
    (2, 2, 1, 20, None, 'own', 'in', 0.01),
]


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('taps, views, images, width, local, labels, positives, temperature', CASES)
def kernel_equals_formula(taps, views, images, width, local, labels, positives, temperature, chunked, monkeypatch):
    monkeypatch.setattr(fused, '_LEAST_ANCHORS', 1)
    monkeypatch.setattr(fused, '_BUFFER', 4 * taps * views * images * 20)  # chunks of 20 anchors
    exact, ids = problem(taps, views, images, width, labels)
    rows = exact.float().requires_grad_()
    options = dict(views=views, local=local, positives=positives)
    found = values_and_grads(
        lambda x: fused_contrast(x, ids, 1 / temperature, images=images, chunked=chunked, **options), rows
    )
    expected = values_and_grads(
        lambda x: formula(x, ids, 1 / temperature, **options), rows.detach().double().requires_grad_()
    )
    assert_near(found, expected)


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('positives', ['out', 'in'])
@pytest.mark.parametrize('local', [None, slice(3, 9)])
def kernel_learns_the_scale(local, positives, chunked):
    exact, ids = problem(2, 2, 11, 20, 'few')
    options = dict(views=2, local=local, positives=positives)
    scale = torch.tensor(1 / 0.07, requires_grad=True)
    found = values_and_grads(
        lambda x, scale: fused_contrast(x, ids, scale, images=11, chunked=chunked, **options),
        exact.float().requires_grad_(),
        scale,
    )
    expected = values_and_grads(
        lambda x, scale: formula(x, ids, scale, **options),
        exact.float().double().requires_grad_(),
        scale.detach().double().requires_grad_(),
    )
    assert found[3].shape == ()
    assert_near(found, expected)


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('scale', [14.0, 100.0])
def kernel_of_zeros_and_equal_rows(scale, chunked):
    """Two rows of zeros and four of (1, 0, ..): logarithms in closed form."""
    rows = torch.zeros(1, 6, 16)
    rows[:, 2:, 0] = 1
    ids = torch.tensor([0, 1, 2, 0, 1, 2])
    log_all, positive = fused_contrast(rows, ids, scale, views=2, images=3, positives='in', chunked=chunked)
    e = torch.tensor(scale, dtype=torch.float64).exp()
    low, high = torch.tensor(5.0).log().double(), (2 + 3 * e).log()
    assert_close(log_all[0].double(), torch.stack([low, low, *[high] * 4]), rtol=1e-6, atol=1e-6)
    assert_close(positive, torch.tensor([[0, 0, scale, 0, 0, scale]]))


@pytest.mark.parametrize('chunked', [False, True])
def kernel_gives_zero_without_positives(chunked):
    rows = unit(1, 4, 20).float().requires_grad_()
    options = dict(views=2, images=2, positives='in', chunked=chunked)
    for scale in (14.0, 100.0):
        _, positive = fused_contrast(rows, torch.arange(4), scale, **options)
        assert positive.tolist() == [[0, 0, 0, 0]]
        (grad,) = torch.autograd.grad(positive.sum(), rows)
        assert not grad.any()


@pytest.mark.filterwarnings('ignore:invalid value encountered:RuntimeWarning')
@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('positives', ['out', 'in'])
@pytest.mark.parametrize('scale', [14.0, 100.0])
def kernel_hides_no_nan(scale, positives, chunked):
    """In values and gradients of all rows, so that a step can be skipped or stopped."""
    rows = unit(1, 6, 20).float()
    rows[0, 1, 3] = torch.nan
    rows.requires_grad_()
    ids = torch.arange(3).repeat(2) // 2
    values = fused_contrast(rows, ids, scale, views=2, images=3, positives=positives, chunked=chunked)
    assert values[0].isnan().all()
    (grad,) = torch.autograd.grad(sum(value.sum() for value in values), rows)
    assert grad.isnan().all()


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('local', [slice(0, 0), slice(2, 2)])
def kernel_without_anchors(local, chunked):
    rows = unit(2, 6, 20).float().requires_grad_()
    values = fused_contrast(rows, torch.arange(3).repeat(2), 1.0, views=2, images=3, local=local, chunked=chunked)
    assert [value.shape for value in values] == [(2, 0), (2, 0)]
    (grad,) = torch.autograd.grad(sum(value.sum() for value in values), rows)
    assert not grad.any()
    empty = fused_contrast(rows[:, :0], torch.arange(0), 1.0, views=2, images=0, chunked=chunked)
    assert empty[0].shape == (2, 0)


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('positives', ['out', 'in'])
def kernel_gradients_of_ranks_add_up(positives, chunked):
    exact, ids = problem(2, 2, 21, 20, 'few')
    rows = exact.float().requires_grad_()

    def run(local):
        values = fused_contrast(rows, ids, 10.0, views=2, images=21, local=local, positives=positives, chunked=chunked)
        return values, torch.autograd.grad(sum((value**2).sum() for value in values), rows)[0]

    values, grad = run(None)
    halves = [run(slice(0, 8)), run(slice(8, 21))]
    for number, whole in enumerate(values):
        parts = torch.cat([half[0][number].unflatten(1, (2, -1)) for half in halves], 2).flatten(1)
        assert_close(parts, whole, rtol=1e-6, atol=1e-6)
    assert_close(halves[0][1] + halves[1][1], grad, rtol=0, atol=5e-6 * float(grad.abs().max()))


@pytest.mark.parametrize('chunked', [False, True])
def kernel_is_deterministic_and_deaf_to_autocast(chunked):
    before = torch.backends.cuda.matmul.fp32_precision
    exact, ids = problem(2, 2, 21, 20, 'few')

    def run():
        return values_and_grads(
            lambda x: fused_contrast(x, ids, 10.0, views=2, images=21, chunked=chunked), exact.float().requires_grad_()
        )

    first, second = run(), run()
    with torch.autocast('cpu', torch.bfloat16):
        third = run()
    for one, two, three in zip(first, second, third, strict=True):
        assert one.equal(two)
        assert one.equal(three)
    assert torch.backends.cuda.matmul.fp32_precision == before


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('precision, error', [('float16', 2e-3), ('bfloat16', 2e-2), ('tf32x3', 5e-6)])
def kernel_rounds_as_it_is_told(precision, error, chunked):
    """Within the error of the type, also for the gradients of a mean, which float16 alone would lose.

    The interpreter multiplies float32 as such, whatever it is told.
    """
    exact, ids = problem(1, 2, 24, 40, 'few')
    errors = []
    for loss_scale in (1e-9, 1.0, 65536.0):
        grads = []
        for function, dtype in ((fused_contrast, torch.float32), (None, torch.float64)):
            rows = exact.to(dtype).requires_grad_()
            if function:
                options = dict(precision=precision, chunked=chunked)
                log_all, positive = fused_contrast(rows, ids, 14.0, views=2, images=24, **options)
            else:
                log_all, positive = formula(rows, ids, 14.0, 2, None, 'out')
            grads.append(torch.autograd.grad(loss_scale * (log_all - positive / 11).mean(), rows)[0] / loss_scale)
        errors.append(float((grads[0] - grads[1]).norm() / grads[1].norm()))
    assert max(errors) <= error
    if 'float' in precision:
        assert min(errors) > error / 100  # rounded at all
    assert max(errors) <= 1.3 * min(errors)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def kernel_takes_rows_of_sixteen_bits(dtype):
    """They are exact numbers: only the gradient is rounded, to their type."""
    exact, ids = problem(1, 2, 12, 20, 'few')
    rows = exact.to(dtype).requires_grad_()
    found = values_and_grads(lambda x: fused_contrast(x, ids, 14.0, views=2, images=12), rows)
    expected = values_and_grads(
        lambda x: formula(x, ids, 14.0, 2, None, 'out'), rows.detach().double().requires_grad_()
    )
    assert found[2].dtype == dtype
    assert_near(found[:2], expected[:2])
    assert_close(found[2].double(), expected[2], rtol=torch.finfo(dtype).eps, atol=1e-5)


def kernel_leaves_wide_rows_to_products(monkeypatch):
    shapes = []
    multiply = fused._multiply
    monkeypatch.setattr(fused, '_multiply', lambda a, b, *more: shapes.append(a.shape[1:]) or multiply(a, b, *more))
    for width in (511, 512):
        fused_contrast(unit(1, 6, width).float(), torch.arange(3).repeat(2), 14.0, views=2, images=3)
    assert shapes == [(6, 512)]


def kernel_has_no_second_derivative():
    rows = unit(1, 6, 20).float().requires_grad_()
    value = fused_contrast(rows, torch.arange(3).repeat(2), 14.0, views=2, images=3)[0].sum()
    (grad,) = torch.autograd.grad(value, rows, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        grad.sum().backward()


def kernel_is_one_operation_of_a_graph():
    def loss(rows, ids, scale):
        log_all, positive = fused_contrast(rows, ids, scale, views=2, images=6, local=slice(1, 4))
        return log_all if usable(rows.device) else log_all - positive, positive

    exact, ids = problem(1, 2, 6, 20, 'few')
    compiled = torch.compile(loss, fullgraph=True, backend='aot_eager')
    for scale in (14.0, torch.tensor(14.0, requires_grad=True)):
        runs = [
            values_and_grads(lambda x, s, run=run: run(x, ids, s), exact.float().requires_grad_(), scale)
            for run in (loss, compiled)
        ]
        for one, other in zip(*runs, strict=True):
            assert_close(one, other, rtol=1e-6, atol=1e-6)


def kernel_check_sees_what_is_wrong(monkeypatch):
    fused._is_right.cache_clear()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter('error')
        assert fused._is_right(CPU)
    multiply = fused._multiply
    monkeypatch.setattr(fused, '_multiply', lambda a, *more, **keep: multiply(a * 1.001, *more, **keep))
    fused._is_right.cache_clear()
    with pytest.warns(UserWarning, match=r'do not work on cpu \(they differ .*; the tiles of plain PyTorch are used'):
        assert not fused._is_right(CPU)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert not fused._is_right(CPU)  # said once
    fused._is_right.cache_clear()


@pytest.mark.slow
def test_kernels_in_the_interpreter():
    """Run every ``kernel_*`` of this file where ``triton.jit`` interprets."""
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--noconftest', __file__]
    run = subprocess.run(
        [*command, '-o', 'python_functions=kernel_*'],
        cwd=Path(__file__).parents[2],
        env=os.environ | {'TRITON_INTERPRET': '1'},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    names = [name for name in globals() if name.startswith('kernel_')]
    assert int(re.search(r'(\d+) passed', run.stdout)[1]) > 2 * len(names)
    assert 'skipped' not in run.stdout


TYPES = {torch.float32: '*fp32', torch.float16: '*fp16'}


def compile_for_h100(kernel, precision, tile, constants):
    """Return the bytes of registers that are spilled and of shared memory that is used, per kernel."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = dict(tile)
    options = {name: tile.pop(name) for name in ('num_warps', 'num_stages') if name in tile}
    constants = {name: value for name, value in (tile | constants).items() if name in kernel.arg_names}
    kinds = dict.fromkeys(('start', 'stop', 'M', 'images', 'first', 'number'), 'i32') | dict(ids='*i64')
    kinds |= dict.fromkeys(('x', 'weights'), TYPES[PRECISIONS[precision].dtype])
    signature = {name: 'constexpr' if name in constants else kinds.get(name, '*fp32') for name in kernel.arg_names}
    aligned = {
        (place,): [['tt.divisibility', 16]]
        for place, name in enumerate(kernel.arg_names)
        if signature[name].startswith('*')
    }
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned),
        target=GPUTarget('cuda', 90, 32),
        options=options,
    )
    ptxas = [triton.knobs.nvidia.ptxas.path, '-v', '--gpu-name=sm_90a', '-o', os.devnull, '/dev/stdin']
    log = subprocess.run(ptxas, input=made.asm['ptx'], capture_output=True, text=True, check=True).stderr
    spills = [int(count) for count in re.findall(r'(\d+) bytes spill', log)]
    assert len(spills) == 2, log
    return sum(spills), made.metadata.shared


@pytest.mark.slow
@pytest.mark.parametrize('inside, safe', [(False, True), (True, False)])
@pytest.mark.parametrize('precision', ['float32', 'tf32', 'float16'])
def test_kernels_fit_a_streaming_multiprocessor(precision, inside, safe):
    """On sm_90, rows of 128 numbers: no register is spilled, and shared memory suffices."""
    tile = fused._tile(precision, 128)
    constants = dict(D=128, INSIDE=inside, SAFE=safe, PRECISION=PRECISIONS[precision].dot, BOTH=True)
    for kernel, size, more in (
        (fused._forward, tile, dict(PRODUCTS=False, scores=None)),
        (fused._backward, tile, {}),
        (fused._forward, fused._EPILOGUE, dict(PRODUCTS=True, x=None, BD=0, BO=0)),
        (fused._scores_to_weights, fused._EPILOGUE, {}),
    ):
        spilled, shared = compile_for_h100(kernel, precision, size, constants | more)
        assert spilled == 0
        assert shared <= 227 * 1024


def test_fake_tensors_count_one_operation_and_no_wait(monkeypatch):
    from fake_gpu import Waits
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(fused, '_is_right', lambda device: pytest.fail('launched'))
    with FakeTensorMode(), Waits() as counted:
        rows = torch.empty(4, 24, 128, device='cuda', dtype=torch.bfloat16, requires_grad=True)
        ids = torch.empty(24, device='cuda', dtype=torch.int64)
        scale = torch.empty((), device='cuda')
        assert usable(rows.device)
        values = fused_contrast(rows, ids, 14.0, views=2, images=12, local=slice(3, 8))
        fused_contrast(rows, ids, scale, views=2, images=12)
        grad = torch.ops.mmcds.contrast_backward(
            rows, ids, scale, *values, *values, [12, 3, 5], True, True, 'float16', False
        )
    assert [(value.shape, value.dtype, value.is_cuda) for value in values] == 2 * [((4, 10), torch.float32, True)]
    assert (grad.shape, grad.dtype, grad.is_cuda) == (rows.shape, torch.float32, True)
    assert counted.kernels == {'new_full': 1, 'contrast': 2, 'contrast_backward': 1}
    assert not counted.found


def test_a_gpu_sums_products_of_sixteen_bits_in_float32():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is not torch.ops.aten.baddbmm.dtype_out:
                return function(*args, **(kwargs or {}))
            seen.append((args[3], kwargs.get('beta', 1)))
            return kwargs['out']

    with FakeTensorMode(), Look():
        a = torch.empty(2, 5, 7, device='cuda', dtype=torch.float16)
        out = torch.empty(2, 9, 5, device='cuda')[:, 2:7]
        fused._multiply(a, a.mT, out)
        fused._multiply(a, a.mT, out, keep=True)
    assert seen == [(torch.float32, 0), (torch.float32, 1)]


def test_only_a_gpu_can_use_the_kernels():
    assert not usable(CPU)


def test_a_gpu_that_fails_is_said_once():
    if torch.cuda.is_available():
        pytest.skip('here is one that works')
    fused._is_right.cache_clear()
    with pytest.warns(UserWarning, match=r'do not work on cuda:0 \(.*\); the tiles of plain PyTorch are used instead'):
        assert not usable(torch.device('cuda', 0))
    assert not usable(torch.device('cuda', 0))
    fused._is_right.cache_clear()


@pytest.mark.slow
def test_imports_without_triton():
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from mmcds.losses import fused; "
        "assert fused.triton is None; assert not fused.usable(torch.device('cuda', 0))"
    )
    subprocess.run([sys.executable, '-W', 'error', '-c', code], check=True)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(views=3), r'rows must be \(T, V \* N, D\)'),
        (dict(ids=torch.zeros(3, dtype=torch.int64)), 'Give one id per row'),
        (dict(positives='mean'), "positives is 'mean'; choose 'out' or 'in'"),
        (dict(precision='int8'), "precision is 'int8'; choose one of float32, tf32x3"),
    ],
)
def test_rejects(change, message):
    given = dict(rows=torch.zeros(1, 4, 2), ids=torch.zeros(4, dtype=torch.int64), scale=1.0, views=2, images=2)
    with pytest.raises(ConfigError, match=message):
        fused_contrast(**(given | change))
