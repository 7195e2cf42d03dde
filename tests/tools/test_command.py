"""The command mmcds: quick, complete, and the same as the tools behind it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmcds.command import COMMANDS, main
from mmcds.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'mmcds.command', *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_every_tool_has_a_name():
    tools = {path.stem for path in (ROOT / 'tools').glob('*.py')}
    assert {script for script, _ in COMMANDS.values() if script} == tools


def test_help_names_every_command_and_imports_nothing(capsys):
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            'import sys; from mmcds.command import main; main([]); print(sorted({"torch", "numpy"} & {*sys.modules}))',
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert all(f'  {name}' in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == '[]'
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'mmcds {__version__}\n'


def test_a_misspelt_command_is_corrected(capsys):
    assert main(['trian']) == 2
    assert 'no command trian. Did you mean train?' in capsys.readouterr().err
    assert main(['zzz']) == 2
    assert '--help' in capsys.readouterr().err


@pytest.mark.slow
def test_a_command_is_the_tool():
    done = run('data', '--help')
    assert done.returncode == 0
    assert done.stdout.startswith('usage: mmcds data'), 'nothing of the host comes first'
    done = run('export-backbone', 'nowhere.pth', 'out.pth')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('mmcds: error: checkpoint nowhere.pth does not exist')
