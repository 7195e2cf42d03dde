"""A signal ends a tool with one line, a status that schedulers understand, and nothing left running."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import few_images

from mmcds.openmmlab.work_dir import latest_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')
LONG = ['train_cfg.max_epochs=500', *few_images(32, 8, 8, workers=2, val_workers=1)]


def wait_for(condition, process):
    deadline = time.time() + 120
    while not condition():
        assert process.poll() is None, 'it ended by itself'
        assert time.time() < deadline, 'it does not get anywhere'
        time.sleep(0.1)


def processes_that_name(text):
    """The command lines of all living processes that hold a text."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            line = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:  # it has ended meanwhile
            continue
        if text in line:
            found.append(line)
    return found


def assert_none_is_left(text):
    deadline = time.time() + 20
    while processes_that_name(text) and time.time() < deadline:
        time.sleep(0.2)
    assert not processes_that_name(text)


@pytest.mark.skipif(not Path('/proc/self/cmdline').exists(), reason='processes are looked up in /proc')
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGINT'])
def test_a_training_ends_with_one_line_and_leaves_no_process(tmp_path, environment, name):
    command = [sys.executable, str(ROOT / 'tools/train.py'), CONFIG, '--work-dir', str(tmp_path / 'run')]
    with (tmp_path / 'log').open('w') as log:
        process = subprocess.Popen(
            [*command, '--cfg-options', *LONG], stdout=log, stderr=log, env=environment, start_new_session=True
        )
        wait_for((tmp_path / 'run/last_checkpoint').exists, process)
        os.killpg(process.pid, getattr(signal, name))
        assert process.wait(60) == 128 + getattr(signal, name)
    *_, last = (tmp_path / 'log').read_text().splitlines()
    assert last.startswith(f'mmcds: stopped by {name}.')
    assert 'Traceback' not in (tmp_path / 'log').read_text()
    assert_none_is_left(str(tmp_path))
    assert latest_checkpoint(tmp_path / 'run')


@pytest.mark.skipif(not Path('/proc/self/cmdline').exists(), reason='processes are looked up in /proc')
def test_the_trainings_of_a_sweep_end_with_it(tmp_path, environment):
    command = [sys.executable, str(ROOT / 'tools/paper.py'), 'run', 'table1/mini_fashion/plain', '--scale', 'mini']
    command += ['--out', str(tmp_path / 'runs'), '--seeds', '0', '1', '--jobs', '1', '--cfg-options', LONG[0]]
    with (tmp_path / 'log').open('w') as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        first, second = (tmp_path / f'runs/table1/mini_fashion/plain/seed_{seed}' for seed in (0, 1))
        wait_for(lambda: list(first.glob('*/vis_data')), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / 'log').read_text().splitlines()[-1].startswith('mmcds: stopped by SIGTERM.')
    assert_none_is_left(str(tmp_path))
    assert not list(second.glob('*/vis_data')), 'the next one is not begun'
    assert (first / 'console.log').read_text().splitlines()[-1].startswith('mmcds: stopped by SIGTERM.')
