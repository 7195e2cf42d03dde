#!/usr/bin/env python
"""Time and memory of the contrastive losses against other ways to compute them, side by side in one run.

    python benchmarks/contrastive_loss.py                        # all cases, about ten minutes on two quiet cores
    python benchmarks/contrastive_loss.py --cases 512x128        # some cases; the others stay in the JSON file
    python benchmarks/contrastive_loss.py --plot-only

Every round runs each contestant once, forward and backward, in changing order; ratios are taken within a round, and
their median is reported, so that a change of the machine's speed meets all of them. Memory is the peak resident size
of a fresh process above its size before the call, with the embeddings already there.
"""

import json
import os
import platform
import subprocess
import sys
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

import matplotlib
import torch
from torch import Tensor
from torch.nn import functional as F

warnings.simplefilter('ignore')
from mmcds.losses import ntxent_loss, supcon_loss  # noqa: E402

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

RESULTS = Path(__file__).parent / 'results'
TEMPERATURE = 0.07
NUM_CLASSES = 100
CASES = ('512x128', '512x512', '512x2048', '4096x128', '4096x2048', '8192x512', '16384x128', '32768x128', '65536x128')
PML_LIMIT = 4096  # embeddings; above it, pytorch-metric-learning needs more than ten times the memory of one matrix
MATRIX_LIMIT = 16384  # embeddings; above it, only what is linear in memory runs


def masked_supcon(rows: Tensor, labels: Tensor) -> Tensor:
    """SupCon with the matrices of the published form: scores, two masks, exponentials, log-probabilities."""
    size = len(rows)
    positive = torch.eq(labels[:, None], labels[None]).float()
    scores = torch.div(rows @ rows.t(), TEMPERATURE)
    scores = scores - scores.max(dim=1, keepdim=True).values.detach()
    other = torch.ones_like(positive).scatter_(1, torch.arange(size)[:, None], 0)
    positive = positive * other
    log_probability = scores - (scores.exp() * other).sum(1, keepdim=True).log()
    return -((positive * log_probability).sum(1) / positive.sum(1)).mean()


def concatenated_ntxent(rows: Tensor) -> Tensor:
    """NT-Xent as cross-entropy over logits that are cut out of four blocks and concatenated."""
    first, second = rows.chunk(2)
    size = len(first)
    off_diagonal = ~torch.eye(size, dtype=torch.bool)
    blocks = [a @ b.t() / TEMPERATURE for a, b in ((first, first), (first, second), (second, first), (second, second))]
    own_first = blocks[0][off_diagonal].view(size, -1)
    own_second = blocks[3][off_diagonal].view(size, -1)
    logits = torch.cat([torch.cat([blocks[1], own_first], 1), torch.cat([blocks[2], own_second], 1)])
    return F.cross_entropy(logits, torch.arange(size).repeat(2))


def one_line_ntxent(rows: Tensor) -> Tensor:
    """NT-Xent as a log-sum-exp over a matrix without its diagonal, minus the scores of the positives."""
    scores = (rows @ rows.t() / TEMPERATURE).fill_diagonal_(-torch.inf)
    half = len(rows) // 2
    return (scores.logsumexp(1) - (rows * rows.roll(half, 0)).sum(1) / TEMPERATURE).mean()


def three_products(rows: Tensor) -> None:
    """No loss: the matrix products that plain autograd cannot do without, and one matrix."""
    with torch.no_grad():
        scores = rows @ rows.t()
        scores @ rows
        scores.t() @ rows


def contestants(embeddings: Tensor, labels: Tensor) -> dict[str, Callable[[], None]]:
    """One forward and backward pass of everything that can run at this size, by name."""
    size = embeddings.shape[1] * 2

    def run(loss: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            embeddings.grad = None
            loss(embeddings).backward()

        return step

    both = labels.repeat(2)
    found = {
        'mmcds ntxent': run(ntxent_loss),
        'mmcds supcon': run(lambda z: supcon_loss(z, labels)),
        'mmcds supcon in': run(lambda z: supcon_loss(z, labels, positives='in')),
    }
    if size <= MATRIX_LIMIT:
        found.update(
            {
                'three products': lambda: three_products(embeddings.flatten(0, 1)),
                'masked supcon': run(lambda z: masked_supcon(z.flatten(0, 1), both)),
                'concatenated ntxent': run(lambda z: concatenated_ntxent(z.flatten(0, 1))),
                'one-line ntxent': run(lambda z: one_line_ntxent(z.flatten(0, 1))),
            }
        )
    if size <= PML_LIMIT:
        try:
            from pytorch_metric_learning import losses
        except ImportError:
            return found
        theirs = losses.SupConLoss(temperature=TEMPERATURE)
        found['pml supcon'] = run(lambda z: theirs(z.flatten(0, 1), both))
    return found


def problem(case: str) -> tuple[Tensor, Tensor]:
    """Two views of random images, and their labels."""
    size, width = map(int, case.split('x'))
    torch.manual_seed(0)
    rows = torch.randn(2, size // 2, width)
    rows /= torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    return rows.requires_grad_(), torch.randint(0, NUM_CLASSES, (size // 2,))


def check_equal(case: str) -> None:
    """The contestants must compute the same numbers, or the comparison means nothing."""
    embeddings, labels = problem(case)
    flat, both = embeddings.flatten(0, 1), labels.repeat(2)
    for ours, theirs in (
        (ntxent_loss(embeddings), (concatenated_ntxent(flat), one_line_ntxent(flat))),
        (supcon_loss(embeddings, labels), (masked_supcon(flat, both),)),
    ):
        for other in theirs:
            torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
            grads = [torch.autograd.grad(loss, embeddings, retain_graph=True)[0] for loss in (ours, other)]
            torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def time_case(case: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of every contestant in every round."""
    steps = contestants(*problem(case))
    for step in steps.values():  # warm up; the slow ones need it too, for their first touch of memory
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    names, start = list(steps), time.perf_counter()
    repeat = 20 if case.startswith('512x') else 1
    while len(times[names[0]]) < 3 or time.perf_counter() - start < seconds:
        names.append(names.pop(0))
        for name in names:
            begin = time.perf_counter()
            for _ in range(repeat):
                steps[name]()
            times[name].append((time.perf_counter() - begin) / repeat)
    return times


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB (10^6 bytes)."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def measure_memory(case: str, name: str) -> float:
    """Peak above the start, in MB, of one call in this process."""
    contestants(*problem(f'64x{case.split("x")[1]}'))[name]()
    step = contestants(*problem(case))[name]
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak so far
    before = resident('VmRSS')
    step()
    return resident('VmHWM') - before


def memory_of(case: str, names: Iterable[str], threads: int) -> dict[str, float]:
    """The same, each contestant in a fresh process."""
    found = {}
    for name in names:
        command = [sys.executable, __file__, '--threads', str(threads), '--memory', case, name]
        found[name] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def summarise(case: str, times: dict[str, list[float]], memory: dict[str, float]) -> dict:
    """Medians of times, of ratios within a round, and memory."""
    rows = {}
    for name, values in times.items():
        rows[name] = dict(seconds=median(values), fastest=min(values), extra_mb=round(memory[name], 1))
        for reference in ('three products', 'masked supcon', 'one-line ntxent'):
            if reference in times:
                ratios = [a / b for a, b in zip(values, times[reference], strict=True)]
                rows[name][f'ratio to {reference}'] = median(ratios)
    return dict(case=case, rounds=len(next(iter(times.values()))), contestants=rows)


def print_case(result: dict) -> None:
    """Print one table."""
    print(
        f'\n{result["case"]} (embeddings x width), {result["rounds"]} rounds\n'
        f'{"":22}{"ms":>10}{"extra MB":>10}{"/ products":>12}{"/ masked":>10}{"/ one-line":>12}'
    )
    for name, row in result['contestants'].items():
        ratios = [row.get(f'ratio to {key}') for key in ('three products', 'masked supcon', 'one-line ntxent')]
        cells = [f'{ratio:.3f}' if ratio is not None else '-' for ratio in ratios]
        print(
            f'{name:22}{row["seconds"] * 1e3:10.2f}{row["extra_mb"]:10.1f}{cells[0]:>12}{cells[1]:>10}{cells[2]:>12}'
        )
    sys.stdout.flush()


def plot(results: dict[str, dict], path: Path) -> None:
    """Draw time and memory over the number of embeddings at D = 128."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5))
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for case, result in results.items():
        size, width = map(int, case.split('x'))
        if width == 128:
            for name, row in result['contestants'].items():
                curves.setdefault(name, []).append((size, row['seconds'], max(row['extra_mb'], 0.1)))
    for name, points in curves.items():
        sizes, seconds, extra = zip(*sorted(points), strict=True)
        style = dict(marker='o', linewidth=2.5 if name.startswith('mmcds') else 1, label=name)
        axes[0].plot(sizes, seconds, **style)
        axes[1].plot(sizes, extra, **style)
    for axis, label in zip(axes, ('seconds, forward and backward', 'extra memory, MB'), strict=True):
        axis.set(xscale='log', yscale='log', xlabel='embeddings (D = 128)', ylabel=label)
        axis.set_xscale('log', base=2)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print, write and draw."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='EMBEDDINGSxWIDTH')
    parser.add_argument('--seconds', type=float, default=20, help='of each case; at least three rounds')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of contrastive_loss.json and .png')
    parser.add_argument('--plot-only', action='store_true')
    parser.add_argument('--memory', nargs=2, metavar=('CASE', 'NAME'), help='print the memory of one call and stop')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(measure_memory(*args.memory))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / 'contrastive_loss.json'
    stored = json.loads(file.read_text())['cases'] if file.exists() else {}
    if not args.plot_only:
        check_equal('512x128')
        for case in args.cases:
            times = time_case(case, args.seconds)
            result = summarise(case, times, memory_of(case, times, args.threads))
            result.update(torch=torch.__version__, threads=args.threads, machine=platform.machine(), device='cpu')
            print_case(result)
            stored[case] = result
            order = sorted(stored, key=lambda key: tuple(map(int, key.split('x'))))
            stored = {key: stored[key] for key in order}
            file.write_text(json.dumps(dict(temperature=TEMPERATURE, num_classes=NUM_CLASSES, cases=stored), indent=1))
    plot(stored, args.out / 'contrastive_loss.png')


if __name__ == '__main__':
    main()
