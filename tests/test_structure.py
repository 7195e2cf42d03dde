"""Rules of the code base, read from the syntax tree: who imports whom, and what every file says of itself."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import mmcds

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'mmcds').rglob('*.py'))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}: imports are absolute'
            found |= {node.module or ''} | {f'{node.module}.{alias.name}' for alias in node.names}
    return found


def folder(path: Path) -> str:
    return path.relative_to(ROOT / 'mmcds').parts[0]


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_needs_neither_rivals_nor_detection(path):
    for name in imports(path):
        if folder(path) != 'detection':
            assert not re.match(r'(mmdet|mmcv\.ops|mmcds\.detection)\b', name), name
        if folder(path) != 'baselines':
            assert not re.match(r'mmcds\.baselines\b', name), name


def test_imports_follow_the_way_of_an_image():
    """A folder imports those that an image meets before it, never the other way round."""
    order = [
        'errors.py',
        'version.py',
        'checkpoint.py',
        'datasets',
        'transforms',
        'preprocessor.py',
        'losses',
        'taps.py',
        'outputs.py',
        'necks',
        'supervisions',
        'classifiers',
        'evaluation',
        'export.py',
        'curves.py',
        'hooks',
    ]
    for path in FILES:
        if folder(path) not in order:
            continue
        for name in imports(path):
            parts = name.split('.')
            if parts[0] == 'mmcds' and len(parts) > 1:
                other = parts[1] if parts[1] in order else f'{parts[1]}.py'
                if other in order:
                    assert order.index(other) <= order.index(folder(path)), f'{path} imports {name}'


@pytest.mark.parametrize(
    'path',
    sorted([*FILES, *(ROOT / 'tools').glob('*.py'), *(ROOT / 'tests').rglob('*.py')]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_file_says_in_one_line_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f'{path} has no docstring'
    assert docstring.splitlines()[0].endswith(('.', ':'))


def test_readme_and_package_list_every_folder_in_the_same_order():
    readme = (ROOT / 'README.md').read_text()
    for text in (mmcds.__doc__, readme):
        listed = re.findall(r'^\s*([a-z_]+/|[a-z]+\.py) {2,}', text, re.M)
        folders = {
            f'{path.parent.name}/' for path in FILES if path.name == '__init__.py' and path.parent.name != 'mmcds'
        }
        assert folders <= set(listed), folders - set(listed)
    first, second = (re.findall(r'^\s*([a-z_]+/|[a-z]+\.py) {2,}', text, re.M) for text in (mmcds.__doc__, readme))
    assert first == second


def test_nothing_names_a_machine_or_is_left_unfinished():
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip('this copy of the project is no git checkout')
    marks = '|'.join(
        ['TO' + 'DO', 'FIX' + 'ME', r'NotImplemented' + r'Error\(\)', '/ro' + 'ot/', '/wo' + 'rk/', '/tm' + 'p/']
    )
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if (
            path.suffix in ('.py', '.md', '.sh', '.yml', '.toml', '.txt', '.json', '')
            and path.is_file()
            and ('ubyte' not in name)
        ):
            found = re.findall(rf'(?:{marks})', path.read_text())
            assert not found, f'{name}: {found}'
