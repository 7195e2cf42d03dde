"""Processes that a test file starts from itself, one for every rank."""

import subprocess
import sys


def run_ranks(file, folder, ranks):
    """Run ``python FILE RANK FOLDER`` for every rank at once; each has to end well."""
    children = [
        subprocess.Popen([sys.executable, file, str(rank), str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors[-3000:]
