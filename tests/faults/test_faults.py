"""The fast part of the attacks and of the random kills; the long part is a command, see docs/reliability.md."""

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def run(script, *arguments):
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_attacks_are_answered_by_one_line_or_by_success(tmp_path):
    numbers = dict(configs=40, commands=40, checkpoints=16, images=6)
    options = [word for kind, count in numbers.items() for word in (f'--{kind}', str(count))]
    ended = run('attacks.py', *options, '--seed', '1', '--out', str(tmp_path))
    assert not ended.returncode, ended.stdout + ended.stderr[-2000:] + (tmp_path / 'traceback.txt').read_text()
    found = re.findall(r'(\w+): (\d+) in \d+ s: (\d+) line, (\d+) accepted, (\d+) traceback, (\d+) hang', ended.stdout)
    assert {kind: int(count) for kind, count, *_ in found} == numbers
    for kind, count, line, accepted, traceback, hang in found:
        assert int(line) + int(accepted) + int(traceback) + int(hang) == int(count)
        assert int(line) > int(count) / 4, f'{kind}: the attacks are no attacks'
    assert (tmp_path / 'line.txt').read_text().count('mmcds: error: ') > 40


def test_killed_trainings_end_as_if_they_had_not_been_killed():
    ended = run('kills.py', '--kills', '6', '--methods', 'cds', '--workers', '0', '--ranks', '1', '--seed', '0')
    assert not ended.returncode, ended.stdout + ended.stderr[-2000:]
    assert re.search(r'^\d+ kills \(.*\) in (\d+) trainings, \1 of them equal to the last bit$', ended.stdout, re.M)
