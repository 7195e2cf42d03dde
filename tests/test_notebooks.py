"""The notebooks run from start to end and print what they keep; what they keep is small and names no machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'docs/notebooks').glob('*.ipynb'))
NUMBER = re.compile(r'-?\d+(?:,\d{3})*(?:\.\d+)?')
#: How far a number may be from the one that is kept. After a training it may be further: another processor takes
#: sums in another order, which every step enlarges.
CLOSE, TRAINED = dict(rel=0.02, abs=0.01), dict(rel=0.1, abs=0.05)
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': sys.argv[2]}}).execute()
nbformat.write(notebook, sys.argv[1])
"""


def cells(path: Path) -> list[dict]:
    """The code cells of a notebook."""
    return [cell for cell in json.loads(path.read_text())['cells'] if cell['cell_type'] == 'code']


def said(cell: dict) -> str:
    """What a cell prints, and the text of its results but for pictures."""
    texts = []
    for output in cell['outputs']:
        data = output.get('data', {})
        texts += output.get('text', []) or ([] if 'image/png' in data else data.get('text/plain', []))
    return ''.join(texts)


def pictures(cell: dict) -> int:
    return sum('image/png' in output.get('data', {}) for output in cell['outputs'])


def check(kept: str, new: str, closeness: dict) -> None:
    """The same text, and numbers as close as that."""
    assert NUMBER.sub('#', new) == NUMBER.sub('#', kept)
    numbers = [[float(number.replace(',', '')) for number in NUMBER.findall(text)] for text in (kept, new)]
    assert numbers[1] == pytest.approx(numbers[0], **closeness)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_prints_what_it_keeps(path, tmp_path, environment):
    missing = [name for name in ('nbformat', 'nbclient', 'ipykernel') if find_spec(name) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} is not installed: pip install ".[dev]"')
    copy = shutil.copy(path, tmp_path)
    done = subprocess.run(
        [sys.executable, '-c', EXECUTE, copy, tmp_path],
        env={**environment, 'IPYTHONDIR': str(tmp_path / 'ipython')},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(os.listdir(tmp_path)) <= {path.name, 'ipython'}, 'it leaves no files'
    for kept, new in zip(cells(path), cells(tmp_path / path.name), strict=True):
        check(said(kept), said(new), TRAINED if 'training' in kept['metadata'].get('tags', ()) else CLOSE)
        assert pictures(new) == pictures(kept), ''.join(kept['source'])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_keeps_is_whole_small_and_names_no_machine(path):
    text = path.read_text()
    assert len(text) < 400_000
    numbers = [cell['execution_count'] for cell in cells(path)]
    assert numbers == [*range(1, len(numbers) + 1)], 'executed once, from start to end'
    for cell in cells(path):
        assert all(output.get('name') != 'stderr' for output in cell['outputs']), 'a warning'
        assert not re.search(r'/(home|root|tmp|work|usr)/|[Ww]arning', said(cell))


def test_a_number_that_is_no_longer_true_is_found():
    check('accuracy 88.95 %', 'accuracy 88.90 %', CLOSE)
    for wrong in ('accuracy 85.95 %', 'accuracy 88.95', 'accuracy nan %'):
        with pytest.raises(AssertionError):
            check('accuracy 88.95 %', wrong, CLOSE)
