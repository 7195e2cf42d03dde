"""The kernel that prepares views: what operations of PyTorch give, in one launch.

There is no GPU: the kernel runs in Triton's interpreter on the CPU, which must be chosen before Triton is imported, so
in a process of its own, and is compiled for a GPU without being run.
"""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import forget_runs
from fake_gpu import Waits, move_to_gpu
from mmengine.logging import MessageHub
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from mmcds.data import SampleBatch
from mmcds.views import color_kernel
from mmcds.views import preprocessor as preprocessors
from mmcds.views.color import JITTER, NUM_UNIFORMS, RandomColor, apply_color
from mmcds.views.color_kernel import prepare, prepare_views, usable
from mmcds.views.preprocessor import CDSDataPreprocessor

triton = pytest.importorskip('triton')
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]
RANGES = ((0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.5, 0.5))
#: Solarisation at half of 255 is continuous: rounding errors of what comes before do not become jumps.
EVERYTHING = RandomColor(
    0.8, RANGES, 0.2, blur_prob=0.5, solarize_prob=0.5, solarize_threshold=127.5, cutout=5
)  # fmt: skip
SHARP = RandomColor(0.8, RANGES, 0.2, solarize_prob=0.5, solarize_threshold=127.5, cutout=4)


def random_views(views: int, count: int, height: int = 7, width: int = 9) -> torch.Tensor:
    """Random levels with flat grey, black, white and saturated images among them, (V, N, 3, H, W), uint8 BGR."""
    levels = torch.randint(0, 256, (views, count, 3, height, width), generator=torch.Generator().manual_seed(1))
    levels = levels.to(torch.uint8)
    levels[:, : count // 2, :, :3] = torch.tensor([0, 128, 255], dtype=torch.uint8)[torch.arange(count // 2) % 3].view(
        1, -1, 1, 1, 1
    )
    levels[:, -1, 1:, 3:] = 0
    return levels


def draws_of(colors, count: int, seed: int = 0):
    numbers = np.random.default_rng(seed)
    return [color and color.draw(numbers.random((count, NUM_UNIFORMS))) for color in colors]


def reference(views, draws, colors, mean=None, std=None, to_rgb=True) -> torch.Tensor:
    """The same by ``apply_color``, in float64."""
    images = views.flip(2).double()
    for view, draw, color in zip(images, draws, colors, strict=True):
        if draw is not None:
            apply_color(view, draw, color)
    images = images if to_rgb else images.flip(2)
    return images if mean is None else (images - mean) / std


def vector(values) -> torch.Tensor:
    return torch.tensor(values).view(3, 1, 1)


class TestInTheInterpreter:
    __test__ = INTERPRETED

    @pytest.fixture(autouse=True, params=[32, 1024])
    def block(self, request, monkeypatch):
        """Several blocks of pixels per image, and one."""
        monkeypatch.setattr(color_kernel, 'BLOCK', request.param)

    @pytest.mark.parametrize('name', [*JITTER, 'grey', 'solarize', 'cutout'])
    def test_each_operation_is_the_one_of_apply_color(self, name):
        settings = dict(grey=dict(grey_prob=0.5), solarize=dict(solarize_prob=0.5), cutout=dict(cutout=4))
        if name in JITTER:
            ranges = [None] * 4
            ranges[JITTER.index(name)] = RANGES[JITTER.index(name)]
            settings[name] = dict(jitter_prob=0.7, ranges=tuple(ranges))
        colors = (RandomColor(**settings[name]),)
        views, draws = random_views(1, 12), draws_of(colors, 12)
        ours = prepare(views, draws, colors, None, None, True)
        assert_close(ours.double(), reference(views, draws, colors), rtol=0, atol=1e-3)
        assert not torch.equal(ours, views.flip(2).float()), 'something is done'

    def test_jitter_in_all_24_orders_is_the_one_of_apply_color(self):
        orders = np.array(list(itertools.permutations(range(4))))
        color = RandomColor(1.0, RANGES)
        (draw,) = draws_of([color], 24)
        draw = draw._replace(order=orders)
        views = random_views(1, 24)
        views[:] = random_views(1, 24)[:, 20:21]  # one image, so that the order alone makes the difference
        draw = draw._replace(factors=np.repeat(draw.factors[:1], 24, 0))
        ours = prepare(views, [draw], [color], None, None, True)
        assert_close(ours.double(), reference(views, [draw], [color]), rtol=0, atol=1e-3)
        assert len({tuple(image.flatten().tolist()) for image in ours[0]}) > 12

    def test_contrast_0_leaves_the_mean_grey_level(self):
        color = RandomColor(1.0, (None, (0.0, 0.0), None, None))
        views = random_views(1, 5)
        ours = prepare(views, draws_of([color], 5), [color], None, None, True)
        weights = torch.tensor([0.114, 0.587, 0.2989], dtype=torch.float64).view(3, 1, 1)  # of blue, green, red
        means = (views.double() * weights).sum(2).mean((2, 3))
        assert_close(ours.double(), means[..., None, None, None].expand(ours.shape), rtol=0, atol=1e-4)

    def test_holes_at_every_border_have_the_pixels_of_apply_color(self):
        shares = [0.0, 0.15, 0.5, 0.85, 0.999]
        centre = np.array(list(itertools.product(shares, shares)))
        count = len(centre)
        for side in (1, 4, 5, 20):
            color = RandomColor(cutout=side)
            draw = draws_of([color], count)[0]._replace(centre=centre)
            views = random_views(1, count).clamp(min=1)
            ours = prepare(views, [draw], [color], None, None, True)
            assert torch.equal(ours.double(), reference(views, [draw], [color]))
            assert (ours == 0).any()

    @pytest.mark.parametrize('to_rgb', [True, False])
    @pytest.mark.parametrize('colors', [(None, SHARP), (SHARP, None, EVERYTHING), (RandomColor(cutout=3), EVERYTHING)])
    def test_views_of_different_colours_are_those_of_apply_color(self, colors, to_rgb):
        views, draws = random_views(len(colors), 10), draws_of(colors, 10)
        mean, std = vector(MEAN), vector(STD)
        ours = prepare(views, draws, colors, mean, std, to_rgb)
        assert ours.dtype == torch.float32
        expected = reference(views, draws, colors, mean, std, to_rgb)
        assert_close(ours.double() * std, expected * std, rtol=0, atol=1e-3)

    def test_views_without_colour_are_converted_and_normalised_bit_for_bit(self):
        views, mean, std = random_views(2, 4), vector(MEAN), vector(STD)
        for draws, colors in (((), ()), ((None, None), (None, None))):
            ours = prepare(views, draws, colors, mean, std, True)
            assert torch.equal(ours, views.flip(2).float().sub_(mean).div_(std))
        assert torch.equal(prepare(views, (), (), None, None, False), views.float())

    def test_neither_strides_nor_the_rest_of_the_batch_matter(self):
        colors = (SHARP, EVERYTHING)
        views, draws = random_views(2, 4), draws_of(colors, 4)
        whole = prepare(views, draws, colors, None, None, True)
        as_loaded = views.transpose(0, 1).contiguous().transpose(0, 1)
        channels_last = views.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        part_of_more = torch.zeros(2, 4, 3, 11, 13, dtype=torch.uint8)[..., 2:9, 3:12].copy_(views)
        for other in (as_loaded, channels_last, part_of_more, views.float()):
            assert torch.equal(prepare(other, draws, colors, None, None, True), whole)
        alone = [draw._replace(**{name: value[2:3] for name, value in draw._asdict().items()}) for draw in draws]
        assert_close(prepare(views[:, 2:3], alone, colors, None, None, True), whole[:, 2:3], rtol=0, atol=1e-4)
        assert prepare(views[:, :0], (), (), None, None, True).shape == (2, 0, 3, 7, 9)

    @pytest.mark.parametrize('run', [True, False])
    @pytest.mark.parametrize(
        'settings',
        [
            dict(to_rgb=True, mean=MEAN, std=STD, view_colors=(SHARP, EVERYTHING)),
            dict(to_rgb=False, mean=MEAN, std=STD, view_colors=(None, SHARP), pad_size_divisor=8, pad_value=3),
            dict(to_rgb=True, view_colors=(RandomColor(cutout=3), None)),
            dict(to_rgb=True, mean=[1, 2, 3], std=[4, 5, 6]),
        ],
    )
    def test_the_preprocessor_gives_what_it_gives_without_the_kernel(self, settings, run, monkeypatch):
        preprocessor = CDSDataPreprocessor(**settings)
        views = random_views(2, 6).transpose(0, 1)
        samples = SampleBatch(torch.arange(6), [dict(sample_idx=3 * index) for index in range(6)])
        if run:
            MessageHub.get_current_instance().update_info_dict(dict(seed=3, iter=7))
        else:
            forget_runs()

        def prepared(training=True):
            torch.manual_seed(0)
            return preprocessor(dict(inputs=views, data_samples=samples), training)['inputs']

        expected, plain = prepared(), prepared(training=False)
        calls = []
        monkeypatch.setattr(preprocessors, 'usable', lambda device: True)
        monkeypatch.setattr(preprocessors, 'prepare', lambda *args: calls.append(0) or prepare(*args))
        assert_close(prepared(), expected, rtol=0, atol=1e-3 / min(settings.get('std', [1])))
        assert_close(prepared(training=False), plain, rtol=0, atol=1e-6)
        assert len(calls) == 2
        preprocessor.double()
        prepared()
        if 'mean' in settings and isinstance(settings['mean'][0], float):
            assert prepared().dtype == torch.float64
            assert len(calls) == 2, 'a wider model takes the operations of PyTorch'
        forget_runs()

    def test_it_is_an_operation_that_pytorch_compiles_without_a_break(self):
        views, draws = random_views(2, 3), draws_of((SHARP, None), 3)
        table = torch.from_numpy(color_kernel._table(draws, (SHARP, None), views.shape))
        arguments = (views, table, vector(MEAN), vector(STD), True, True, True)
        torch.library.opcheck(prepare_views, arguments)
        compiled = torch.compile(lambda *given: prepare_views(*given) + 1, fullgraph=True, backend='eager')
        assert torch.equal(compiled(*arguments), prepare_views(*arguments) + 1)


class TestItsCheckOfItself:
    __test__ = INTERPRETED

    def test_it_passes_and_notices_a_fault(self, monkeypatch):
        cpu = torch.device('cpu')
        assert color_kernel._agrees.__wrapped__(cpu)
        right = color_kernel._table

        def wrong(*args):
            table = right(*args)
            table[0, 1, 12] += 1  # one hole by one column
            return table

        monkeypatch.setattr(color_kernel, '_table', wrong)
        with pytest.warns(RuntimeWarning, match=r'cannot be used on cpu \(it is .* grey levels away'):
            assert not color_kernel._agrees.__wrapped__(cpu)


@pytest.mark.slow
def test_the_kernel_equals_apply_color_in_the_interpreter():
    tests = [f'{__file__}::{group.__name__}' for group in (TestInTheInterpreter, TestItsCheckOfItself)]
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider', *tests]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, 'TRITON_INTERPRET': '1'}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert int(re.search(r'(\d+) passed', done.stdout).group(1)) > 40


def compiled_for_hopper(source: str, first: bool, rest: bool, block: int) -> str:
    """Compile for sm_90 as the launch does for contiguous images of 224 or 32 pixels; what the assembler says."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = color_kernel._prepare_views
    types = {**dict.fromkeys(kernel.arg_names, 'i32'), **dict.fromkeys(('out', 'table', 'mean', 'std'), '*fp32')}
    types['views'] = source
    constants = dict(COLUMNS=color_kernel.COLUMNS, FIRST=first, REST=rest, SWAP=rest, BLOCK=block)
    constants['NORMALISE'] = rest or not first
    constants |= {} if first or rest else dict(table=None)
    constants |= {} if constants['NORMALISE'] else dict(mean=None, std=None)
    types |= dict.fromkeys(constants, 'constexpr')
    aligned = {(n,): [['tt.divisibility', 16]] for n, name in enumerate(types) if types[name] != 'constexpr'}
    asked = ASTSource(
        kernel, types, {(kernel.arg_names.index(name),): value for name, value in constants.items()}, aligned
    )
    built = triton.compile(asked, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=max(1, block // 128)))
    assert built.metadata.shared <= 1024
    assembler = Path(triton.__file__).parent / 'backends/nvidia/bin/ptxas'
    command = [assembler, '-v', '-arch=sm_90a', '-o', os.devnull, '/dev/stdin']
    return subprocess.run(command, input=built.asm['ptx'], capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    'source, first, rest, block',
    [
        ('*u8', True, True, 1024),
        ('*u8', True, True, 128),
        ('*u8', True, False, 1024),
        ('*fp32', False, True, 1024),
        ('*u8', False, False, 1024),
    ],
)
def test_it_compiles_for_hopper_without_spilling_registers(source, first, rest, block, tmp_path, monkeypatch):
    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    said = compiled_for_hopper(source, first, rest, block)
    assert '0 bytes spill stores, 0 bytes spill loads' in said
    assert int(re.search(r'Used (\d+) registers', said).group(1)) <= 64, said  # 1,024 threads per multiprocessor


@pytest.mark.parametrize('colors', [(RandomColor(cutout=8), SHARP), ()])
@pytest.mark.parametrize('divisor', [1, 16])
def test_a_batch_is_three_copies_and_one_launch_and_waits_for_nothing(colors, divisor):
    preprocessor = CDSDataPreprocessor(10, colors, mean=MEAN, std=STD, to_rgb=True, pad_size_divisor=divisor)
    samples = SampleBatch(torch.arange(8), [dict(sample_idx=index) for index in range(8)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        move_to_gpu(preprocessor)
        with Waits() as counted:
            views = torch.zeros(8, 2, 3, 24, 24, dtype=torch.uint8)
            batch = preprocessor(dict(inputs=views, data_samples=samples), True)['inputs']
    side = 24 if divisor == 1 else 32
    assert (batch.shape, batch.dtype, batch.device.type) == ((2, 8, 3, side, side), torch.float32, 'cuda')
    assert not counted.found
    copies = 3 if colors else 2  # images, labels, what was drawn
    padding = {'constant_pad_nd': 1} if divisor > 1 else {}
    assert counted.kernels == {'_to_copy': copies, 'prepare_views': 1, **padding}


def test_operations_without_a_range_cost_nothing():
    color = RandomColor(1.0, ((0.5, 1.5), None, None, (-0.1, 0.1)))
    table = color_kernel._table(draws_of([None, color], 30), [None, color], torch.Size((2, 30, 3, 8, 8)))
    assert set(table[0, :, :4].flat) == {-1}
    assert set(table[1, :, :4].flat) == {-1, 0, 3}
    assert (table[..., 8] == -1).all(), 'the first pass is for contrast alone'


def test_what_cannot_be_used_is_said_once_and_done_without(monkeypatch):
    assert not usable(torch.device('cpu'))

    def broken(device):
        raise RuntimeError('no compiler\nand more')

    monkeypatch.setattr(color_kernel, '_difference', broken)
    expected = r'on cpu \(RuntimeError: no compiler\)\. Operations of PyTorch are used instead\.$'
    color_kernel._agrees.cache_clear()
    with pytest.warns(RuntimeWarning, match=expected) as caught:
        assert not any(color_kernel._agrees(torch.device('cpu')) for _ in range(3))
    assert len(caught) == 1
    color_kernel._agrees.cache_clear()
    monkeypatch.setattr(color_kernel, '_difference', lambda device: float('nan'))
    with pytest.warns(RuntimeWarning, match='it is nan grey levels away'):
        assert not color_kernel._agrees.__wrapped__(torch.device('cpu'))


@pytest.mark.slow
def test_without_triton_views_are_prepared_by_operations():
    program = '\n'.join(
        (
            'import sys, warnings',
            "sys.modules['triton'] = None",
            'import torch',
            'from mmcds.views import color_kernel',
            'with warnings.catch_warnings(record=True) as caught:',
            "    warnings.simplefilter('always')",
            "    assert not color_kernel._agrees(torch.device('cpu'))",
            'print(caught[-1].message)',
        )
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert 'triton' in done.stdout, done.stderr
    assert 'Operations of PyTorch are used instead' in done.stdout
