"""Runs of the tools, forked from one process that has imported everything, so that they start at once."""

import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import mmcds.cli
import mmcds.openmmlab.runner  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


def run(tool: str, arguments: list[str]) -> int:
    """Run a tool in this process as from the command line; return its status."""
    sys.argv = [f'tools/{tool}.py', *arguments]
    try:
        runpy.run_path(str(ROOT / f'tools/{tool}.py'), run_name='__main__')
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return int(listener.getsockname()[1])


def start(work: Callable[[], int], ranks: int, log: Path) -> int:
    """Do some work in a new group of processes, one for each rank, and write what they print to a file.

    Returns:
        The number of the group, which is that of the process to wait for.
    """
    leader = os.fork()
    if leader:
        return leader
    status = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(OMP_NUM_THREADS='1')
        if ranks == 1:
            status = work()
        else:
            os.environ.update(WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
            children = []
            for rank in range(ranks):
                child = os.fork()
                if not child:
                    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
                    os._exit(work())
                children.append(child)
            status = max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    finally:
        os._exit(status)


def wait(group: int, seconds: float) -> int | None:
    """Return the status of a group of processes; None if it did not end in time, and was killed."""
    end = time.time() + seconds
    while time.time() < end:
        ended, status = os.waitpid(group, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(group, signal.SIGKILL)
    os.waitpid(group, 0)
    return None
