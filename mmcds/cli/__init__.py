"""What the command-line tools share. Importing it registers everything, or says in one line what is not installed."""

import contextlib
import io
import sys

from mmcds.after_import import require

try:
    for _package in ('mmengine', 'mmcv', 'mmpretrain', 'rich'):
        require(_package, 'openmmlab', __name__)
except ModuleNotFoundError as error:
    sys.exit(f'mmcds: error: {error}')

with contextlib.redirect_stdout(io.StringIO()) as _said:  # MMPretrain prints that a package of its own is missing
    import mmcds.openmmlab  # noqa: F401
print(end=_said.getvalue().replace('Could not import OneDL\n', ''))
