#!/usr/bin/env python
"""Everything that a first run on a GPU should find out, in one command of at most eight minutes.

    python benchmarks/gpu.py --out FILE.json                        # on one GPU; the same as a table: FILE.txt
    python benchmarks/gpu.py --out FILE.json --parts loss step      # some parts only
    python benchmarks/gpu.py --out FILE.json --tiny                 # rehearsal on a CPU; its times mean nothing

Every part has a share of the time, and what one leaves goes to the next. Results are written after every row. An
exception costs its row or contestant; where it leaves a device that answers no more, or where something hangs, the
script starts itself again and goes on without it. Contestants take turns, in changing order; times are those of the
device's clock, medians over rounds, and ratios are taken within a round.
"""

import gc
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from contrastive_loss import masked_supcon, three_products
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS, TRANSFORMS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity
from torchvision import transforms
from training_step import CONFIGS
from views import TwoCrops, torchvision_views

from mmcds.cli.launch import add_step_arguments, merge_step_arguments, set_loader_defaults
from mmcds.core.errors import ConfigError
from mmcds.data import InMemory, SampleBatch
from mmcds.losses import fused, supcon_loss
from mmcds.openmmlab.colors import pipelines
from mmcds.openmmlab.hooks import CUDAGraphHook
from mmcds.openmmlab.hooks.cuda_graph import capture
from mmcds.openmmlab.runner import Runner
from mmcds.views import color_kernel, preprocessor

Step = Callable[[], Any]
#: Name of a row, the seconds that it needs at least, what measures it, and arguments.
Row = tuple[Any, ...]
#: Largest relative error of a loss and its gradient, by the precision of the products.
TOLERANCES = {'bfloat16': 2e-2, 'float16': 3e-3, 'tf32': 3e-3, 'float32': 1e-5, 'tf32x3': 1e-5}
#: Where the package lies.
PACKAGE = f'{Path(fused.__file__).parents[1]}{os.sep}'
#: Kinds of steps, with small networks.
KINDS = {
    'plain': 'plain/resnet18w16_fashion.py',
    'cds': 'cds/resnet18w16_fashion.py',
    'distill': 'distill/resnet18w8s_fashion.py',
    'semi': 'semi/resnet18w16s_fashion.py',
}
#: Config, side of the images, images per step.
CASES = {'resnet18': ('cds/resnet18_cifar100.py', 32, 128), 'resnet50': ('cds/resnet50_in1k.py', 224, 64)}
TINY_CASES = {'resnet18': (KINDS['cds'], 28, 4)}
COLORS = ('cds/resnet18_cifar100.py', 32), ('cds/resnet50_in1k.py', 224), ('simclr/resnet50_in1k.py', 224)
#: Rows and width of the embeddings, in the order of their worth.
SIZES = [(65536, 128), (16384, 128), (65536, 768), (1024, 128), (16384, 768), (1024, 768), (16384, 512), (65536, 512)]
SIZES += [(1024, 512), (16384, 2048), (1024, 2048), (65536, 2048)]
#: Seconds that a part may take beyond its time before its row is given up.
GRACE = 20.0
#: Options of tools/train.py for the whole loop.
LOOPS = ('--amp', '--amp --data-on-device', '--amp --data-on-device --cuda-graph')


class Bench:
    """What the parts share: the device, the time that is left, and the results.

    Args:
        out: JSON file; the table is written beside it.
        tiny: Tiny sizes, on the CPU.
        seconds: Time for everything.
        resume: Go on with what the file holds.
    """

    def __init__(self, out: Path, tiny: bool, seconds: float, resume: bool) -> None:
        self.out, self.tiny, self.cuda = out, tiny, not tiny
        self.device = torch.device('cpu' if tiny else 'cuda')
        self.backend = 'eager' if tiny else 'inductor'
        self.results: dict[str, Any] = dict(started=time.time(), seconds={}, failed={}, targets=[], parts={}, lines=[])
        if resume:
            self.results = json.loads(out.read_text())
        self.end = self.part_end = self.results['started'] + seconds
        self.running = ''

    def say(self, line: str) -> None:
        """Print a line, which belongs to the table too."""
        print(line, flush=True)
        self.results['lines'].append(line)

    def save(self) -> None:
        """Write JSON and table; an interruption leaves the former ones or these."""
        self.results['targets'] = [] if self.tiny else targets(self.results)
        table = '\n'.join([*self.results['lines'], *target_lines(self.results['targets'])])
        content = json.dumps(self.results, indent=1, default=str)
        for path, text in ((self.out, content), (self.out.with_suffix('.txt'), table)):
            part = path.with_name(f'{path.name}.part')
            part.write_text(text + '\n')
            part.replace(path)

    def left(self) -> float:
        """Return the seconds that the current part still has."""
        return self.part_end - time.time()

    def fail(self, name: str, reason: str) -> None:
        """Note what failed; it is not tried again."""
        self.results['failed'][name] = reason
        self.say(f'  {name}: {reason}')
        self.save()

    def restart(self) -> None:
        """Go on in a new process, whose device answers."""
        os.closerange(3, 4096)  # the driver's files, so that it gives back the memory
        os.execv(sys.executable, [sys.executable, *dict.fromkeys([*sys.argv, '--resume'])])

    def free(self) -> None:
        """Give back memory; RuntimeError if the device answers no more."""
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Note an exception as a failure, and go on."""
        outer, self.running = self.running, name
        try:
            yield
        except Exception as error:
            self.fail(name, f'{type(error).__name__}: {" ".join(str(error).split())[:300]}')
            error.__traceback__ = None  # it holds tensors
            try:
                self.free()
            except RuntimeError:
                self.restart()
        finally:
            self.running = outer

    def clock(self, function: Step, repeat: int = 1) -> float:
        """Return milliseconds of a call among several in a row."""
        if self.cuda:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            first.record()
        begin = time.perf_counter()
        for _ in range(repeat):
            function()
        if not self.cuda:
            return 1e3 * (time.perf_counter() - begin) / repeat
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / repeat

    def peak(self, function: Step) -> float | None:
        """Return the memory that a call needs beside what is there, in MB; None on a CPU."""
        if not self.cuda:
            return None
        self.free()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def turns(self, make: Callable[..., Step], contestants: dict[str, tuple], seconds: float) -> dict[str, dict]:
        """Time contestants in turns.

        Args:
            make: Builds a contestant from its arguments.
            contestants: Their arguments, by name.
            seconds: Time for all rounds; at least three are run, if the part has time.

        Returns:
            ``ms``, ``mb`` (extra memory) and ``times`` (of every round) of those that did not fail.
        """
        row, running, found = self.running, {}, {}
        for key, args in contestants.items():
            if f'{row}: {key}' not in self.results['failed'] and self.left() > 0:
                with self.guard(f'{row}: {key}'):
                    function = make(self, *args)
                    for _ in range(1 if self.tiny else 5):  # compiles, tunes, fills caches
                        function()
                    memory, once = self.peak(function), self.clock(function)
                    running[key] = function, 1 if self.tiny else math.ceil(20 / max(once, 0.2))
                    found[key] = dict(ms=once, mb=memory, times=[])
        start = time.perf_counter()
        for turn in range(60):
            if turn and (self.left() <= 0 or (turn > 2 and time.perf_counter() - start > seconds)):
                break
            order = [*running]
            first = turn % max(len(order), 1)
            for key in order[first:] + order[:first]:
                with self.guard(f'{row}: {key}'):
                    found[key]['times'].append(self.clock(*running[key]))
                    found[key]['ms'] = median(found[key]['times'])
                if f'{row}: {key}' in self.results['failed']:
                    del running[key], found[key]
        return found


def text_of(row: dict) -> str:
    """Lay a row out as text, a contestant on a line."""
    texts = []
    for key, value in row.items():
        if isinstance(value, dict) and 'times' in value:
            texts.append(f'\n    {key:20} {text_of(value)}')
        elif key != 'times':
            texts.append(f'{key} {value:.4g}' if isinstance(value, float) else f'{key} {value}')
    return ' '.join(texts)


def ratio(group: dict, name: str, reference: str) -> float | None:
    """Return the median ratio of two contestants within a round."""
    ours, theirs = (group.get(key, {}).get('times') for key in (name, reference))
    return median(a / b for a, b in zip(ours, theirs, strict=False)) if ours and theirs else None


@contextmanager
def tf32(products: bool, convolutions: bool = True) -> Iterator[None]:
    """Choose what plain PyTorch rounds to TF32 within a block."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    old = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = products, convolutions
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = old


def read_config(path: str) -> tuple[Config, int]:
    """Read a config whose views are coloured on the device; return how many there are, too."""
    config = Config.fromfile(CONFIGS / path)
    steps = [step for each in pipelines(config.train_dataloader.dataset) for step in each]
    views = next(step for step in steps if step['type'] == 'MultiViewTransform')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        config.data_preprocessor.view_colors = TRANSFORMS.build(dict(views)).colors or ()
    return config, len(views['views'])


def build_model(config: Config, **changes: Any) -> nn.Module:
    """Build the model of a config, and its teacher, with random weights."""
    MessageHub.get_instance(f'steps {time.time_ns()}').update_info('watched', False)  # as in most steps of a run
    torch.manual_seed(0)
    settings = dict(config.model, data_preprocessor=config.data_preprocessor, channels_last='auto', **changes)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(settings).train()
    if getattr(model, 'teacher', None) is not None:
        model.teacher.freeze(model.teacher._build())
    return model


def build_preprocessor(config: Config, device: torch.device) -> nn.Module:
    """Build what prepares the batches of a config."""
    return MODELS.build(dict(config.data_preprocessor, type='CDSDataPreprocessor')).to(device)


def make_batch(bench: Bench, images: int, views: int, side: int, classes: int, unlabelled: int = 0) -> dict:
    """Return a batch as the loader gives it, pinned for a GPU."""
    inputs = torch.randint(0, 256, (images, views, 3, side, side), dtype=torch.uint8)
    labels = torch.arange(images) % classes
    labels[images - unlabelled :] = -1
    samples = SampleBatch(labels, [dict(sample_idx=index, img_shape=(side, side)) for index in range(images)])
    pinned = (inputs.pin_memory(), samples.pin_memory()) if bench.cuda else (inputs, samples)
    return dict(zip(('inputs', 'data_samples'), pinned, strict=True))


def small_step(bench: Bench, kind: str) -> tuple[nn.Module, dict]:
    """Return model and batch of one of the KINDS; a third of the labels is hidden from the semi-supervised one."""
    config, views = read_config(KINDS[kind])
    model = build_model(config)
    images = 6 if bench.tiny else 24
    return model, make_batch(bench, images, views, 28, config.num_classes, images // 3 if kind == 'semi' else 0)


def wrapper_of(model: nn.Module) -> Any:
    """Return what updates the weights, in bfloat16."""
    optimizer = dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return build_optim_wrapper(model, dict(type='mmpretrain.BF16OptimWrapper', optimizer=optimizer))


def versions(bench: Bench) -> dict:
    """Return what runs, on what."""
    found: dict[str, Any] = dict(card=platform.machine(), cpus=os.cpu_count(), python=platform.python_version())
    found.update(torch=torch.__version__, cuda=torch.version.cuda, numpy=np.__version__)
    if bench.cuda:
        import triton

        card = torch.cuda.get_device_properties(0)
        asked = ['nvidia-smi', '--query-gpu=driver_version,clocks.sm,clocks.mem', '--format=csv,noheader']
        smi = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        found.update(triton=triton.__version__, card=card.name, driver_and_clocks=smi)
        found.update(gb=card.total_memory / 1e9, multiprocessors=card.multi_processor_count)
    return found


def contrast(bench: Bench, embeddings: Tensor, labels: Tensor, kernel: str, precision: str, **options: Any) -> Tensor:
    """Compute our loss by the kernel that is asked for, and by no other."""
    if kernel != 'tiles' and not fused.usable(bench.device):
        raise ConfigError('the kernels failed their self-check, so tiles would be measured in their place.')
    return supcon_loss(embeddings, labels, kernel=kernel, precision=precision, unit_rows=True, **options)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative difference of two tensors, by their norms."""
    ours, theirs = (value.detach().double().cpu() for value in (ours, theirs))
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))


def right(bench: Bench) -> Iterator[Row]:
    """Whether losses, gradients and colours of the device are those of float64, or of plain PyTorch, on a CPU."""
    yield 'self-checks', 0, self_checks
    shapes = [((2, 512, 128), 'out'), ((2, 1500, 640), 'out'), ((3, 77, 40), 'out'), ((2, 300, 128), 'in')]
    for path, _ in COLORS:
        yield f'grey levels of {path}', 0, judged, 0.05, color_error, path
    for kind in KINDS:
        yield f'step of {kind}', 0, judged, 2e-2, step_error, kind
    for shape, positives in [((2, 12, 16), 'out'), ((3, 7, 20), 'in')] if bench.tiny else shapes:
        for kernel in ('tiles', 'fused', 'chunked') if bench.cuda else ('tiles',):
            for precision, limit in TOLERANCES.items():
                if kernel != 'tiles' or precision == 'float32':
                    name = f'loss {kernel} {precision} {"x".join(map(str, shape))} {positives}'
                    yield name, 1, judged, limit, loss_error, shape, positives, kernel, precision


def self_checks(bench: Bench) -> dict:
    """Let the kernels compare themselves with plain PyTorch; without a GPU there are none."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        found = dict(contrast=fused.usable(bench.device), color=color_kernel.usable(bench.device))
    verdict = 'right' if all(found.values()) or not bench.cuda else 'WRONG'
    return {**found, 'verdict': verdict, 'said': [str(warning.message) for warning in said]}


def judged(bench: Bench, limit: float, measure: Callable[..., dict[str, float]], *args: Any) -> dict:
    """Add to errors whether they are small."""
    found = measure(bench, *args)
    return {**found, 'verdict': 'right' if all(value <= limit for value in found.values()) else 'WRONG'}


def loss_error(bench: Bench, shape: tuple[int, int, int], positives: str, kernel: str, precision: str) -> dict:
    """Compare the contrastive loss with float64 on the CPU."""
    torch.manual_seed(2)
    exact = F.normalize(torch.randn(*shape, dtype=torch.float64), dim=2).requires_grad_()
    labels = torch.randint(-1, 5, shape[1:2])
    there = exact.detach().float().to(bench.device).requires_grad_()
    expected = supcon_loss(exact, labels, positives=positives)
    found = contrast(bench, there, labels.to(bench.device), kernel, precision, positives=positives)
    gradients = [torch.autograd.grad(*pair)[0] for pair in ((found, there), (expected, exact))]
    return dict(value=difference(found, expected), gradient=difference(*gradients))


def color_error(bench: Bench, path: str) -> dict:
    """Compare prepared batches with those of the CPU, in grey levels."""
    config, views = read_config(path)
    data = make_batch(bench, 4 if bench.tiny else 64, views, 32, config.num_classes)
    found = []
    for device in (bench.device, torch.device('cpu')):
        torch.manual_seed(3)
        prepare = build_preprocessor(config, device)
        found.append((prepare(data, True)['inputs'] * prepare.std).cpu())
    levels = (found[0] - found[1]).abs().flatten().sort().values
    return dict(all_but_a_thousandth=float(levels[int(0.999 * (len(levels) - 1))]), mean=float(levels.mean()))


def step_error(bench: Bench, kind: str) -> dict:
    """Compare total loss and gradient of a step with float64 on the CPU."""
    found = []
    for device, dtype in ((bench.device, torch.float32), (torch.device('cpu'), torch.float64)):
        model, data = small_step(bench, kind)
        model = model.to(device, dtype)
        model.data_preprocessor.view_colors = ()
        with tf32(False, convolutions=False):
            total, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode='loss'))
            total.backward()
        gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
        found.append((total, torch.cat(gradients)))
    return dict(zip(('value', 'gradient'), map(difference, *found), strict=True))


def waits_of(bench: Bench, kind: str) -> dict:
    """Count how often the host waits for the device in a step, after two others."""
    model, data = small_step(bench, kind)
    wrapper = wrapper_of(model.to(bench.device))
    for _ in range(2):
        model.train_step(data, wrapper)
    places = count_waits(lambda: model.train_step(data, wrapper)) if bench.cuda else Counter()
    return dict(waits=sum(places.values()), places=dict(places))


def count_waits(function: Step) -> Counter:
    """Count for what the host waits during a call, by place."""
    found: Counter = Counter()

    def show(message: Any, category: Any, filename: str, line: int, *_: Any) -> None:
        if 'called a synchronizing' in str(message):
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
            place = (frames[-1].filename, frames[-1].lineno) if frames else (filename, line)
            found['{}:{}'.format(*place).removeprefix(PACKAGE)] += 1

    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode('warn')
        try:
            function()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return found


def loss(bench: Bench) -> Iterator[Row]:
    """Contrast, forward and backward, by kernel and precision, against the masked form and three plain products."""
    for size in [(64, 16), (128, 8)] if bench.tiny else SIZES:
        contestants = {}
        for precision in TOLERANCES:
            plain = precision in ('float32', 'tf32x3')  # without tensor cores, or with three times the work
            if plain and size[0] ** 2 * size[1] > 1e12:
                continue
            kinds = ['fused'] * (bench.cuda and size[1] < 1024) + ['chunked'] * bench.cuda
            kinds += ['products'] * (precision != 'tf32x3') + ['tiles'] * (precision == 'float32')
            kinds += ['masked'] * (size[0] <= 16384 and precision in ('float32', 'tf32'))
            contestants.update({f'{kind} {precision}': (size, kind, precision) for kind in kinds})
        yield f'{size[0]}x{size[1]}', 1, Bench.turns, loss_step, contestants, 1.0


def loss_step(bench: Bench, size: tuple[int, int], kind: str, precision: str) -> Step:
    """Return one forward and backward pass of a kernel of ours or of the masked form; or three products."""
    torch.manual_seed(0)
    embeddings = F.normalize(torch.randn(2, size[0] // 2, size[1], device=bench.device), dim=2).requires_grad_()
    labels = torch.randint(0, 100, (size[0] // 2,), device=bench.device)
    rows = embeddings.detach().flatten(0, 1).to(getattr(torch, precision, torch.float32))

    @tf32(precision == 'tf32')
    def run() -> None:
        embeddings.grad = None
        if kind == 'products':
            three_products(rows)
        elif kind == 'masked':
            with bench.device:  # where it puts its indices
                masked_supcon(embeddings.flatten(0, 1), labels.repeat(2)).backward()
        else:
            contrast(bench, embeddings, labels, kind, precision).backward()

    return run


def step(bench: Bench) -> Iterator[Row]:
    """A bare step against a plain one and CDS, on two views of the same images."""
    for how, needs in (('eager', 1), ('graph', 10), ('compile', 50)):
        for case in TINY_CASES if bench.tiny else CASES:
            kinds = ('bare', 'plain', 'CDS') if how == 'eager' else ('bare', 'CDS')
            contestants = {kind: (case, kind, how) for kind in kinds}
            if bench.cuda or how != 'graph':
                yield f'{case} {how}', 0 if bench.tiny else needs, Bench.turns, train_step, contestants, 3.0


def train_step(bench: Bench, case: str, kind: str, how: str) -> Step:
    """Return a training step in bfloat16: ``bare``, ``plain`` or ``CDS``; ``eager``, ``compile`` or ``graph``."""
    path, side, images = (TINY_CASES if bench.tiny else CASES)[case]
    config, views = read_config(path)
    model = build_model(config, **({} if kind == 'CDS' else dict(supervisions=None)))
    data = make_batch(bench, images, views, side, config.num_classes)
    wrapper = wrapper_of(model.to(bench.device))
    if kind == 'bare':
        return bare_step(bench, model, data, how)
    runner: Any = SimpleNamespace(model=model, optim_wrapper=wrapper, logger=SimpleNamespace(warning=refuse))
    if how == 'compile':  # as CompileHook does it, which would make the others compile again
        model.losses_of = torch.compile(model.losses_of, backend=bench.backend)
    if how == 'graph':
        CUDAGraphHook(warmup=2).before_train(runner)
    return lambda: model.train_step(data, wrapper)


def refuse(line: str) -> None:
    """Let a warning be an error: nothing else is to be measured in the place of what was asked for."""
    raise ConfigError(line)


def bare_step(bench: Bench, model: nn.Module, data: dict, how: str) -> Step:
    """Return a step of the network without anything around it; its images are on the device, and normalised."""
    labels = data['data_samples'].labels.to(bench.device)
    images = torch.randn(data['inputs'].transpose(0, 1).flatten(0, 1).shape, device=bench.device)
    images = images.contiguous(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    if how == 'compile':
        model.backbone.compile(backend=bench.backend)

    def run() -> dict:
        with torch.autocast(bench.device.type, torch.bfloat16):
            logits = model.head.fc(model.backbone(images)[-1].mean((2, 3)))[: len(labels)]
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        return {}

    for _ in range(2 if how == 'graph' else 0):
        run()
    return capture(run)[1] if how == 'graph' else run


def profile(bench: Bench) -> Iterator[Row]:
    """Launches in a step of CDS, and for which share of ten steps the device is busy."""
    for case in TINY_CASES if bench.tiny else CASES:
        for how in ('eager', 'graph') if bench.cuda else ('eager',):
            yield f'{case} {how}', 1, profile_of, case, how


def profile_of(bench: Bench, case: str, how: str) -> dict:
    """Trace steps."""
    run, warmup, steps = train_step(bench, case, 'CDS', how), *((1, 1) if bench.tiny else (5, 10))
    activity = ProfilerActivity.CUDA if bench.cuda else ProfilerActivity.CPU
    phases = torch.profiler.schedule(wait=0, warmup=warmup, active=steps)
    with torch.profiler.profile(activities=[activity], schedule=phases) as found:
        for _ in range(warmup + steps):
            run()
            found.step()
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        found.export_chrome_trace(file.name)
        return trace_of(json.loads(Path(file.name).read_text())['traceEvents'], steps)


def trace_of(events: list[dict], steps: int) -> dict:
    """Return kernels, copies and launches per step, and the busy share, of a profiler's events; None without a GPU."""
    work = [event for event in events if event.get('cat') in ('kernel', 'gpu_memcpy', 'gpu_memset')]
    calls = [event['name'] for event in events if event.get('cat') in ('cuda_runtime', 'cuda_driver')]
    busy, end, longest = 0.0, -math.inf, Counter()
    for first, length, name in sorted((event['ts'], event['dur'], event['name']) for event in work):
        busy += max(0.0, first + length - max(first, end))  # streams overlap
        end = max(end, first + length)
        longest[name[:70]] += length / 1e3 / steps
    kernels = sum(event['cat'] == 'kernel' for event in work)
    return dict(
        kernels=kernels / steps,
        copies=(len(work) - kernels) / steps,
        launches=sum('Launch' in name for name in calls) / steps,
        busy=busy / (end - min(event['ts'] for event in work)) if work else None,
        longest_ms={name: round(value, 3) for name, value in longest.most_common(8)},
    )


def color(bench: Bench) -> Iterator[Row]:
    """Preparing a batch: the kernel against the operations of plain PyTorch."""
    for path, side in COLORS:
        side, images = (16, 2) if bench.tiny else (side, 128)
        contestants = {name: (path, side, images, name == 'kernel') for name in ('kernel', 'eager')}
        yield f'{path} {images} images of {side} px', 1, Bench.turns, color_step, contestants, 1.0


def color_step(bench: Bench, path: str, side: int, images: int, kernel: bool) -> Step:
    """Return the preparation of a batch, with the kernel or without."""
    config, views = read_config(path)
    prepare = build_preprocessor(config, bench.device)
    data = make_batch(bench, images, views, side, config.num_classes)
    usable = preprocessor.usable

    def run() -> None:
        preprocessor.usable = usable if kernel else lambda device: False
        try:
            prepare(data, True)
        finally:
            preprocessor.usable = usable

    return run


@DATASETS.register_module(force=True)
class RandomImages(InMemory, BaseDataset):
    """As many random images of 32 x 32 pixels, RGB, as asked for."""

    def __init__(self, count: int, **kwargs: Any) -> None:
        self._count = count
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Draw them."""
        images = np.random.default_rng(0).integers(0, 256, (self._count, 32, 32, 3), dtype=np.uint8)
        return [dict(img=image, gt_label=index % 100) for index, image in enumerate(images)]


class OfficialLoop(Hook):
    """A loop in the style of the released scripts, which takes turns with ours by epochs; takes the time of both.

    PIL images through torchvision, float32, contiguous, SupCon with masks, one number read in every step.
    """

    def __init__(self, bench: Bench, config: Config, dataset: BaseDataset) -> None:
        self.bench, self.times = bench, []
        self.model = MODELS.build({**config.model, 'channels_last': False}).to(bench.device).train()
        images = [dataset.get_data_info(index)['img'] for index in range(len(dataset))]
        how = dict(batch_size=config.train_dataloader.batch_size, shuffle=True, drop_last=True, pin_memory=bench.cuda)
        if not bench.tiny:
            how.update(num_workers=min(12, os.cpu_count() or 1), persistent_workers=True)
        self.loader = torch.utils.data.DataLoader(
            TwoCrops(images, torchvision_views(transforms, small=True), tensors=False), **how
        )
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def before_train_epoch(self, runner: Runner) -> None:
        """Run an official epoch, and start the clock of ours."""
        begin = time.perf_counter()
        for views, labels in self.loader:
            images, labels = torch.cat(views).to(self.bench.device), labels.to(self.bench.device)
            features = self.model.backbone(images)
            total = F.cross_entropy(self.model.head.fc(features[-1].mean((2, 3)))[: len(labels)], labels)
            with self.bench.device:  # where it puts its indices
                for rows in self.model.supervisions['cds'].neck(features):
                    total = total + 0.1 * masked_supcon(rows, labels.repeat(2))
            self.optimiser.zero_grad()
            total.backward()
            self.optimiser.step()
            total.item()
        self.begin = time.perf_counter()
        self.times.append((self.begin - begin, 0.0))

    def after_train_epoch(self, runner: Runner) -> None:
        """Stop the clock of ours."""
        self.bench.free()
        self.times[-1] = (self.times[-1][0], time.perf_counter() - self.begin)


def loop_of(bench: Bench, options: str) -> dict:
    """Train on images of CIFAR's size as tools/train.py does, in turns with the official loop; two epochs count."""
    config = Config.fromfile(CONFIGS / 'cds/resnet18_cifar100.py')
    parser = ArgumentParser()
    add_step_arguments(parser)
    pipeline = config.train_dataloader.dataset.pipeline
    config.train_dataloader.dataset = dict(type='RandomImages', count=16 if bench.tiny else 12800, pipeline=pipeline)
    if bench.tiny:
        config.model.backbone.update(base_channels=8, stem_channels=8)
        config.model.head.in_channels = 64
        config.train_dataloader.update(batch_size=4, num_workers=0)
    merge_step_arguments(config, parser.parse_args(options.split()))
    set_loader_defaults(config)
    for name in ('val', 'test'):
        config.update({f'{name}_{part}': None for part in ('cfg', 'dataloader', 'evaluator')})
    config.train_cfg.max_epochs, config.optim_wrapper.optimizer.lr, config.log_level = 3, 1e-3, 'ERROR'
    config.default_hooks.checkpoint.update(interval=10**6, save_best=None, save_last=False)
    with tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmpretrain'):
        config.work_dir = folder
        runner = Runner.from_cfg(config)
        turns = OfficialLoop(bench, config, runner.train_dataloader.dataset)
        runner.register_hook(turns, priority='VERY_LOW')
        runner.train()
        logging.shutdown()
    steps = len(runner.train_dataloader)
    images = steps * config.train_dataloader.batch_size
    waited, total = (runner.message_hub.get_scalar(f'train/{key}').mean(steps - 1) for key in ('data_time', 'time'))
    official, ours = (median(times) for times in zip(*turns.times[1:], strict=True))
    return dict(
        images_per_second=images / ours,
        official_images_per_second=images / official,
        ratio=median(theirs / own for theirs, own in turns.times[1:]),
        loader_share=float(waited / total),
    )


def compiler_of(bench: Bench, kind: str) -> dict:
    """Count graphs and breaks when the whole loss of a step is compiled."""
    model, data = small_step(bench, kind)
    batch = model.step_inputs(**model.to(bench.device).data_preprocessor(data, True))
    model.losses_of(batch)  # what is done once, such as self-checks, is no part of it
    torch._dynamo.reset()
    with torch.autocast(bench.device.type, torch.bfloat16):
        found = torch._dynamo.explain(model.losses_of)(batch)
    reasons = Counter(' '.join(str(reason.reason).split())[:160] for reason in found.break_reasons)
    return dict(graphs=found.graph_count, breaks=found.graph_break_count, reasons=dict(reasons.most_common(5)))


def targets(results: dict) -> list[dict]:
    """Return what is aimed at, with what was measured: None if it was not."""

    def group(part: str, name: str) -> dict:
        return results['parts'].get(part, {}).get(name, {})

    def least(size: str, other: str = '') -> tuple[float | None, str]:
        """Return milliseconds of our fastest, or its ratio to another in its precision; and which one it is."""
        rows, found = group('loss', size), []
        for key, row in rows.items():
            value = ratio(rows, key, f'{other} {key.split()[1]}') if other else row['ms']
            if key.split()[0] in ('tiles', 'fused', 'chunked') and value is not None:
                found.append((value, key))
        return min(found, default=(None, ''))

    def step(case: str) -> tuple[float | None, str]:
        return ratio(group('step', case), 'CDS', 'bare'), case

    def most(part: str, key: str) -> tuple[float | None, str]:
        found = [(row[key], name) for name, row in results['parts'].get(part, {}).items() if key in row]
        return max(found, default=(None, ''))

    memory = group('loss', '65536x128').get(least('65536x128')[1], {}).get('mb')
    verdicts = [row['verdict'] == 'right' for row in results['parts'].get('right', {}).values()]
    verdicts += [False for name in results['failed'] if name.startswith('right')]
    right = sum(verdicts) / len(verdicts) if verdicts else None
    found = (
        ('contrast, 65,536 x 128, ms', '<=', 8, least('65536x128')),
        ('contrast, 65,536 x 768, ms', '<=', 45, least('65536x768')),
        ('contrast / three products, 65,536 x 128', '<=', 0.25, least('65536x128', 'products')),
        ('memory of the fastest / a matrix, 65,536 x 128', '<=', 1, (memory and memory / (2e-6 * 65536**2), '')),
        ('contrast / masked form, 16,384 x 128', '<=', 0.1, least('16384x128', 'masked')),
        ('CDS / bare step, ResNet-50, 224 px', '<=', 1.15, step('resnet50 eager')),
        ('CDS / bare step, ResNet-18, 32 px', '<=', 1.12, step('resnet18 graph')),
        ('share of a step that waits for the loader', '<=', 0.05, (group('loop', LOOPS[0]).get('loader_share'), '')),
        ('waits of the host in a step', '<=', 0, most('waits', 'waits')),
        ('graph breaks in the loss of a step', '<=', 0, most('compile', 'breaks')),
        ('share of the numbers that are right', '>=', 1, (right, '')),
        ('busy share, ResNet-50, 224 px', '>=', 0.95, (group('profile', 'resnet50 eager').get('busy'), 'eager')),
        ('busy share, ResNet-18, 32 px', '>=', 0.95, (group('profile', 'resnet18 graph').get('busy'), 'graph')),
        ('images per second / the official loop', '>=', 3, most('loop', 'ratio')),
    )
    return [
        dict(target=text, sign=sign, limit=limit, value=value, by=by)
        | dict(reached=None if value is None else value <= limit if sign == '<=' else value >= limit)
        for text, sign, limit, (value, by) in found
    ]


def target_lines(found: list[dict]) -> list[str]:
    """Lay the targets out as a table."""
    said = {None: 'not measured', True: 'reached', False: 'NOT REACHED'}
    return ['== targets'] * bool(found) + [
        f'  {row["target"]:48} {row["sign"]} {row["limit"]:<5} {said[row["reached"]]:13}'
        + ('' if row['value'] is None else f'{row["value"]:<9.4g} {row["by"]}')
        for row in found
    ]


#: Share of every part in the time, and its rows.
PARTS: dict[str, tuple[float, Callable[[Bench], Iterable[Row]]]] = {
    'env': (10, lambda bench: [('versions', 0, versions)]),
    'right': (60, right),
    'waits': (25, lambda bench: [(kind, 0, waits_of, kind) for kind in KINDS]),
    'loss': (130, loss),
    'step': (105, step),
    'profile': (30, profile),
    'color': (15, color),
    'loop': (
        70,
        lambda bench: [(options, 1 if bench.tiny else 15, loop_of, options) for options in LOOPS[: 2 + bench.cuda]],
    ),
    'compile': (35, lambda bench: [(kind, 1, compiler_of, kind) for kind in (['distill'] if bench.tiny else KINDS)]),
}


def run_part(bench: Bench, part: str, share: float) -> None:
    """Run the rows of a part within a share of the time that is left; of one that hangs, start again without it."""
    begin, rows = time.time(), bench.results['parts'].setdefault(part, {})
    bench.part_end = begin + share * (bench.end - begin)
    bench.say(f'== {part}')

    def give_up() -> None:
        bench.fail(bench.running, 'did not end in the time of its part')
        bench.restart()

    watch = threading.Timer(max(bench.left(), 0) + GRACE, give_up)
    watch.daemon = True
    watch.start()
    with bench.guard(part):
        for name, needs, measure, *args in PARTS[part][1](bench):
            if name in rows or f'{part}: {name}' in bench.results['failed']:  # from before a restart
                continue
            if bench.left() < needs:
                bench.say(f'  {name}: no time left')
                continue
            with bench.guard(f'{part}: {name}'):
                found = measure(bench, *args)
                bench.free()
                rows[name] = found
                bench.say(f'  {name}: {text_of(found)}')
            bench.save()
    watch.cancel()
    bench.results['seconds'][part] = round(time.time() - begin, 1)
    bench.save()


def main(arguments: list[str] | None = None) -> None:
    """Run the parts, one after the other."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.json', help='result; FILE.txt is its table')
    parser.add_argument('--parts', nargs='+', default=list(PARTS), choices=PARTS)
    parser.add_argument('--tiny', action='store_true', help='every part in tiny sizes on the CPU')
    parser.add_argument('--seconds', type=float, default=480, help='for everything')
    parser.add_argument('--resume', action='store_true', help='go on with what the file holds, within its time')
    args = parser.parse_args(arguments)
    if not args.tiny and not torch.cuda.is_available():
        print('no GPU: PyTorch sees none. Run this where there is one, or add --tiny for a rehearsal on the CPU.')
        sys.exit(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    warnings.filterwarnings('default', message='The .*kernel')  # why one cannot be used
    torch.backends.cudnn.benchmark = True
    if args.tiny:
        torch.set_num_threads(1)
    gc.freeze()  # or every collection would look through all that the imports made
    args.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.out, args.tiny, args.seconds, args.resume)
    done = bench.results['seconds'].keys() | bench.results['failed'].keys()
    waiting = [part for part in PARTS if part in args.parts and part not in done]
    while waiting:
        run_part(bench, waiting[0], PARTS[waiting[0]][0] / sum(PARTS[part][0] for part in waiting))
        waiting.pop(0)
    print('\n'.join(target_lines(bench.results['targets'])))
    print(f'{time.time() - bench.results["started"]:.0f} s; {args.out}, {args.out.with_suffix(".txt")}')


if __name__ == '__main__':
    main()
