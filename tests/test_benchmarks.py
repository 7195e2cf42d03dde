"""The scripts of the benchmarks import what the package has: each one starts and names its options."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / 'benchmarks').glob('*.py'))


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_starts(script):
    asked = [sys.executable, str(script), '--help']
    ended = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, 'MPLBACKEND': 'agg'})
    assert ended.returncode == 0, ended.stderr
    assert '--out' in ended.stdout
