"""What a run was: written beside its log, each time that it starts."""

import json
import platform
import shlex
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner

from mmcds.openmmlab.work_dir import write_whole
from mmcds.version import __version__

RECORD = 'run.json'


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and changed files of the checkout that holds a folder; None outside one, or without git."""
    try:
        asked = [['rev-parse', 'HEAD'], ['status', '--porcelain', '--untracked-files=no']]
        commit, changed = (
            subprocess.run(
                ['git', '-C', str(folder), *line], capture_output=True, text=True, check=True, timeout=10
            ).stdout
            for line in asked
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(commit=commit.strip(), changed=changed.splitlines())


@cache
def installed_packages() -> dict[str, str]:
    """Return the versions of all that is installed, by name; they are read once in a process."""
    found = [each.metadata for each in distributions()]  # parsed each time that it is asked for
    named = sorted((each for each in found if each['Name']), key=lambda each: each['Name'].lower())
    return {each['Name']: each['Version'] for each in named}


def record_run(runner: Runner, command: list[str]) -> Path:
    """Write command line, seed, versions, hardware and the state of the code to ``TIMESTAMP/run.json``.

    Args:
        runner: Of the run.
        command: The command line.

    Returns:
        The file.
    """
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    record = dict(
        command=shlex.join(command),
        folder=str(Path.cwd()),
        started=time.strftime('%Y-%m-%dT%H:%M:%S%z'),
        seed=runner.seed,
        processes=runner.world_size,
        threads=torch.get_num_threads(),  # of every process; sums in another order give other weights
        host=platform.node(),
        system=platform.platform(),
        devices=devices or [platform.processor() or 'CPU'],
        python=sys.version.split()[0],
        mmcds=__version__,
        code=git_state(Path(__file__).resolve().parent),
        own_code=git_state(Path.cwd()),
        packages=installed_packages(),
    )
    file = Path(runner.log_dir, RECORD)
    write_whole(file, json.dumps(record, indent=2) + '\n')
    return file
