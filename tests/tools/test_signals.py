"""A signal ends a tool with one line, a status that schedulers understand, and nothing left running."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import few_images

from mmcds.openmmlab.hooks.checkpoint import WITHIN
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


#: Kills a loading process before a signal has come, and after it.
KILLED_WORKERS = """
import os, signal, time
from torch.utils.data import DataLoader
from mmcds.openmmlab.hooks import stop

stop.receive_signals()
stop._Signals.wait = True

def kill_worker():
    images = iter(DataLoader(range(100), num_workers=1))
    next(images)
    os.kill(images._workers[0].pid, signal.SIGKILL)
    time.sleep(1)

try:
    kill_worker()
except RuntimeError as error:
    print(error)
os.kill(os.getpid(), signal.SIGTERM)
kill_worker()
print('goes on', flush=True)
os._exit(0)
"""


def test_after_a_signal_the_end_of_a_loading_process_is_no_error_wherever_the_training_is(environment):
    """PyTorch raises it from its handler of SIGCHLD, such as in the middle of a checkpoint or of the last line."""
    ended = subprocess.run(
        [sys.executable, '-c', KILLED_WORKERS],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert re.fullmatch(r'DataLoader worker \(pid \d+\) is killed by signal: Killed\. \ngoes on\n', ended.stdout)


#: Lets another process, then the training itself end a loading process that hangs in its image.
ENDED_WORKERS = """
import subprocess, sys, time
from torch.utils.data import DataLoader, Dataset
from mmcds.openmmlab.hooks import stop

class Hangs(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        time.sleep(1000 * index)
        return index

if __name__ == '__main__':
    stop.receive_signals()
    loader = DataLoader(Hangs(), num_workers=1, multiprocessing_context=sys.argv[1])
    stop.keep_workers(loader)
    images = iter(loader)
    next(images)
    (worker,) = images._workers
    subprocess.run(['kill', str(worker.pid)], check=True)
    worker.join(1)
    print(worker.exitcode)
    worker.terminate()
    worker.join(30)
    print(worker.exitcode)
"""


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='it is not known who sends a signal')
@pytest.mark.parametrize('context', ['fork', 'spawn', 'forkserver'])
def test_a_loading_process_ends_at_the_signal_of_its_training_alone(tmp_path, environment, context):
    (tmp_path / 'loads.py').write_text(ENDED_WORKERS)
    command = [sys.executable, str(tmp_path / 'loads.py'), context]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.split() == ['None', '0']


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


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the kernel of Linux ends them')
@pytest.mark.parametrize('moment', ['at the start', 'within the training'])
def test_a_launcher_that_is_killed_leaves_no_rank(tmp_path, environment, moment):
    """SIGKILL to torchrun alone, before its ranks have met and while they train."""
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), CONFIG, '2', '--work-dir', str(tmp_path / 'run')]
    options = ['--cfg-options', *LONG, 'env_cfg.dist_cfg.backend=gloo', 'train_dataloader.num_workers=0']
    with (tmp_path / 'log').open('w') as log:
        process = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=log)
        ranks = f'train.py {CONFIG} --launcher pytorch --work-dir {tmp_path}/run'

        def all_started():
            return sum('torchrun' not in line for line in processes_that_name(ranks)) == 2

        wait_for(all_started if moment == 'at the start' else (tmp_path / 'run/last_checkpoint').exists, process)
        process.kill()
        process.wait()
    assert_none_is_left(ranks)


def blocks(language):
    """The blocks of docs/reliability.md in a language."""
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / 'docs/reliability.md').read_text(), re.S)


def test_the_recipe_for_slurm_saves_and_asks_to_be_started_again(tmp_path, environment):
    """With two processes on a CPU, and a stub for scontrol; torchrun sends SIGTERM to loading processes too."""
    job, *_ = blocks('bash')
    quick = ' '.join(
        ['--cfg-options', *LONG, 'env_cfg.dist_cfg.backend=gloo', 'train_dataloader.dataset.indices=3200']
    )
    replaced = {
        'configs/cds/resnet50_in1k.py 8': f'{CONFIG} 2',
        'work_dirs/cds': str(tmp_path / 'run'),
        '--resume &': f'--resume {quick} &',
    }
    for old, new in replaced.items():
        assert job.count(old) == 1
        job = job.replace(old, new)
    (tmp_path / 'job.sh').write_text(job)
    stub = tmp_path / 'bin/scontrol'
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    stub.chmod(0o755)
    own = {**environment, 'PATH': f'{stub.parent}:{environment["PATH"]}', 'SLURM_JOB_ID': '77'}
    with (tmp_path / 'log').open('w') as log:
        process = subprocess.Popen(['bash', str(tmp_path / 'job.sh')], cwd=ROOT, env=own, stdout=log, stderr=log)
        wait_for(lambda: '/200]' in (tmp_path / 'log').read_text(), process)
        process.send_signal(signal.SIGUSR1)
        process.wait(90)
    assert (tmp_path / 'asked').read_text().split() == ['requeue', '77']
    assert (tmp_path / 'log').read_text().count('mmcds: stopped by SIGTERM.') == 2
    assert_none_is_left(str(tmp_path / 'run'))
    assert Path(latest_checkpoint(tmp_path / 'run')).name == WITHIN.format(0)


def test_the_other_recipes_can_be_read_and_name_what_there_is(tool):
    sky, job = map(yaml.safe_load, blocks('yaml'))
    pod = job['spec']['template']['spec']
    mounts = {mount['name'] for mount in pod['containers'][0]['volumeMounts']}
    assert mounts == {volume['name'] for volume in pod['volumes']}
    torchrun = blocks('bash')[1].replace('\\\n', ' ').split()
    lines = [sky['run'].split()[1:], pod['containers'][0]['args'][1:]]
    lines = [line[1:2] + line[3:] for line in lines if line[0] == 'tools/dist_train.sh']
    lines.append(torchrun[torchrun.index('tools/train.py') + 1 :])
    assert len(lines) == 3
    for line in lines:
        args = tool('train').parse_args(line)
        assert (ROOT / args.config).is_file()
        assert args.resume


@pytest.mark.parametrize(
    'given, expected', [({}, '10000'), ({'GOMP_SPINCOUNT': '7'}, '7'), ({'OMP_WAIT_POLICY': 'PASSIVE'}, 'None')]
)
def test_threads_of_a_tool_spin_for_a_short_time_unless_the_environment_says_how_long(environment, given, expected):
    names = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
    clean = {key: value for key, value in environment.items() if key not in names}
    code = 'import os, sys, mmcds.cli; print(os.environ.get("GOMP_SPINCOUNT"))'
    ended = subprocess.run(
        [sys.executable, '-c', code], env={**clean, **given}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[-1] == expected
