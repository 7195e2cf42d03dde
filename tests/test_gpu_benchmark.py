"""The benchmark for a first run on a GPU: rehearsed whole on the CPU, and what it does when something fails."""

import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmcds.losses.supcon import KERNELS, PRECISIONS

SCRIPT = Path(__file__).resolve().parents[1] / 'benchmarks' / 'gpu.py'
#: The benchmark with rows of our own, which write down that they ran.
BROKEN = """
import sys, time
sys.path.insert(0, {folder!r})
import gpu

def lose(bench):
    def free(self):
        raise RuntimeError('device lost')
    gpu.Bench.free = free
    raise ValueError('of a kernel')

def rows(**measures):
    def noted(bench, name):
        with open(sys.argv[2] + '.log', 'a') as file:
            file.write(name + ' ')
        return measures[name](bench) or dict(value=name)
    return lambda bench: [(name, 0, noted, name) for name in measures]

gpu.GRACE = 0.0
gpu.PARTS = dict(
    env=(1, rows(first=lambda bench: None, lost=lose, after=lambda bench: None)),
    waits=(0.02, rows(hangs=lambda bench: time.sleep(600), next=lambda bench: None)),
    color=(1, rows(last=lambda bench: None)),
)
gpu.main()
"""


@pytest.fixture(scope='module')
def gpu():
    """The script as a module."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        with warnings.catch_warnings():  # the scripts that it imports ignore all, for good
            spec = importlib.util.spec_from_file_location('gpu_benchmark', SCRIPT)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture
def bench(gpu, tmp_path):
    """A rehearsal with a minute left."""
    made = gpu.Bench(tmp_path / 'out.json', tiny=True, seconds=60, resume=False)
    made.part_end = time.time() + 60
    return made


def stored(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_every_part_runs_in_tiny_sizes(gpu, tmp_path):
    command = [sys.executable, str(SCRIPT), '--out', str(tmp_path / 'out.json'), '--tiny']
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert ended.returncode == 0, ended.stderr
    found, table = stored(tmp_path / 'out.json'), (tmp_path / 'out.txt').read_text()
    assert not found['failed']
    assert not found['targets']
    assert list(found['parts']) == list(gpu.PARTS) == list(found['seconds'])
    assert all(found['parts'].values())
    assert 'no time left' not in table
    assert {row['verdict'] for row in found['parts']['right'].values()} == {'right'}
    assert {name: row['waits'] for name, row in found['parts']['waits'].items()} == dict.fromkeys(gpu.KINDS, 0)
    contestants = found['parts']['step']['resnet18 eager']
    assert list(contestants) == ['bare', 'plain', 'CDS']
    assert all(row['ms'] > 0 for row in contestants.values())
    assert all(f'== {part}\n' in table for part in gpu.PARTS)


def test_without_a_gpu_it_says_so(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu.torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(['--out', str(tmp_path / 'out.json')])
    said = capsys.readouterr().out
    assert ended.value.code == 1
    assert said.startswith('no GPU: ')
    assert said.count('\n') == 1


def test_an_exception_costs_its_row_alone(gpu, bench, monkeypatch):
    def rows(_):
        yield 'first', 0, lambda bench: dict(value=1.0)
        yield 'second', 0, lambda bench: 1 // 0
        yield 'third', 0, lambda bench: dict(value=3.0)
        raise KeyError('fourth')

    monkeypatch.setitem(gpu.PARTS, 'waits', (1, rows))
    monkeypatch.setitem(gpu.PARTS, 'color', (1, lambda bench: [('fifth', 0, lambda bench: dict(value=5.0))]))
    for part in ('waits', 'color'):
        gpu.run_part(bench, part, 0.5)
    found = stored(bench.out)
    assert found['parts'] == dict(
        waits=dict(first=dict(value=1.0), third=dict(value=3.0)), color=dict(fifth=dict(value=5.0))
    )
    assert list(found['failed']) == ['waits: second', 'waits']
    assert found['failed']['waits: second'].startswith('ZeroDivisionError: ')
    assert 'waits: second: ZeroDivisionError' in bench.out.with_suffix('.txt').read_text()


def test_rows_without_time_are_left_out(gpu, bench, monkeypatch):
    rows = [(name, needs, lambda bench: dict(value=1.0)) for name, needs in (('long', 40), ('short', 10))]
    monkeypatch.setitem(gpu.PARTS, 'waits', (1, lambda bench: rows))
    gpu.run_part(bench, 'waits', 0.5)  # of a minute
    assert bench.results['parts']['waits'] == dict(short=dict(value=1.0))


@pytest.mark.slow
def test_it_starts_again_without_what_lost_the_device_or_hangs(tmp_path):
    script, out = tmp_path / 'broken.py', tmp_path / 'out.json'
    script.write_text(BROKEN.format(folder=str(SCRIPT.parent)))
    command = [sys.executable, str(script), '--out', str(out), '--tiny', '--seconds', '150']
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    found = stored(out)
    assert Path(f'{out}.log').read_text().split() == ['first', 'lost', 'after', 'hangs', 'next', 'last']
    assert {part: list(rows) for part, rows in found['parts'].items()} == dict(
        env=['first', 'after'], waits=['next'], color=['last']
    )
    assert list(found['failed']) == ['env: lost', 'waits: hangs']


def test_contestants_take_turns_and_one_that_fails_leaves(bench):
    calls = []

    def make(bench, name, limit):
        def step():
            calls.append(name)
            if calls.count(name) > limit:
                raise ValueError(name)

        return step

    with bench.guard('row'):
        found = bench.turns(make, dict(a=('a', 99), b=('b', 4), c=('c', 0), d=('d', 99)), 0.0)
    assert list(found) == ['a', 'd']
    assert all(len(row['times']) == 3 for row in found.values())
    assert list(bench.results['failed']) == ['row: c', 'row: b']
    assert ''.join(calls) == 'aabbcdd' + 'abd' + 'bda' + 'dab'


def test_ratios_are_taken_within_a_round(gpu):
    group = dict(ours=dict(times=[1.0, 30.0, 6.0]), theirs=dict(times=[2.0, 10.0, 20.0]))
    assert gpu.ratio(group, 'ours', 'theirs') == 0.5
    assert gpu.ratio(group, 'ours', 'nobody') is None


def test_waits_are_counted_by_place(gpu, monkeypatch):
    modes = []
    monkeypatch.setattr(gpu.torch.cuda, 'set_sync_debug_mode', modes.append)

    def step():
        for text in (
            'called a synchronizing CUDA operation',
            'the mode does not yet detect all synchronizing operations',
        ) * 2:
            warnings.warn(text, stacklevel=1)

    found = gpu.count_waits(step)
    assert [(Path(place).name.partition(':')[0], count) for place, count in found.items()] == [
        (Path(__file__).name, 2)
    ]
    assert modes == ['warn', 'default']


def test_the_busy_share_counts_overlapping_kernels_once(gpu):
    def event(kind, name, ts, dur):
        return dict(cat=kind, name=name, ts=ts, dur=dur)

    events = [
        event('kernel', 'a', 0, 40),
        event('kernel', 'b', 20, 40),  # another stream
        event('gpu_memcpy', 'c', 80, 20),
        event('cuda_runtime', 'cudaLaunchKernel', 0, 1),
        event('cuda_driver', 'cuLaunchKernelEx', 0, 1),
        event('cuda_runtime', 'cudaStreamSynchronize', 0, 1),
        dict(name='no category'),
    ]
    found = gpu.trace_of(events, 2)
    assert (found['kernels'], found['copies'], found['launches'], found['busy']) == (1, 0.5, 1, 0.8)


def test_without_results_no_target_is_measured(gpu):
    found = gpu.targets(dict(parts={}, failed={}))
    assert {row['reached'] for row in found} == {None}
    assert {row['value'] for row in found} == {None}


def test_what_is_measured_is_what_the_package_offers(gpu):
    assert gpu.TOLERANCES.keys() == set(PRECISIONS)
    contestants = [
        name.split() for _, _, _, _, names, _ in gpu.loss(SimpleNamespace(tiny=False, cuda=True)) for name in names
    ]
    assert {kind for kind, _ in contestants} == {*KERNELS, 'products', 'masked'} - {'auto'}
    assert {precision for _, precision in contestants} == set(PRECISIONS)


def test_targets_name_the_fastest_and_compare_within_a_precision(gpu):
    def row(milliseconds, megabytes=100.0):
        return dict(ms=milliseconds, mb=megabytes, times=[milliseconds])

    contrast = {
        'fused float32': row(30.0),
        'chunked bfloat16': row(9.0),
        'products float32': row(200.0),
        'products bfloat16': row(30.0),
    }
    parts = dict(loss={'65536x128': contrast}, right=dict(a=dict(verdict='right')), waits=dict(cds=dict(waits=2)))
    found = {row['target']: row for row in gpu.targets(dict(parts=parts, failed={'right: b': 'error'}))}
    fastest, products = found['contrast, 65,536 x 128, ms'], found['contrast / three products, 65,536 x 128']
    assert (fastest['value'], fastest['by'], fastest['reached']) == (9.0, 'chunked bfloat16', False)
    assert (products['value'], products['by'], products['reached']) == (0.15, 'fused float32', True)
    assert found['share of the numbers that are right']['value'] == 0.5
    assert found['waits of the host in a step']['reached'] is False
    assert found['CDS / bare step, ResNet-50, 224 px']['reached'] is None
    lines = gpu.target_lines([*found.values()])
    assert sum('not measured' in line for line in lines) == len(found) - 5
    assert 'NOT REACHED' in lines[1]
