"""What the command-line tools share. Importing it registers everything, or says in one line what is not installed."""

import sys

from mmcds.after_import import require

try:
    for _package in ('mmengine', 'mmcv', 'mmpretrain', 'rich'):
        require(_package, 'openmmlab', __name__)
except ModuleNotFoundError as error:
    sys.exit(f'mmcds: error: {error}')

import mmcds.openmmlab  # noqa: F401
