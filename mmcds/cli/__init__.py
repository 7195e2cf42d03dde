"""What the command-line tools share. Importing it registers everything, or says in one line what is not installed."""

import contextlib
import gc
import io
import os
import sys

from mmcds.after_import import require

#: How often a thread of the CPU looks whether the others are ready before it sleeps: 10 to 50 microseconds. libgomp's
#: own number is thirty times as high, which on a shared machine takes the time of those that are waited for.
SPINS = '10000'
if not {'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'} & os.environ.keys():
    os.environ['GOMP_SPINCOUNT'] = SPINS  # read when PyTorch is loaded

# Half the time of a refused command goes into the search of the libraries for garbage, while they are imported and
# when Python ends. They hold little and stay, so they are not searched; what is made later is.
gc.disable()
try:
    for _package in ('mmengine', 'mmcv', 'mmpretrain', 'rich'):
        require(_package, 'openmmlab', __name__)
except ModuleNotFoundError as error:
    sys.exit(f'mmcds: error: {error}')

with contextlib.redirect_stdout(io.StringIO()) as _said:  # MMPretrain prints that a package of its own is missing
    import mmcds.openmmlab  # noqa: F401
print(end=_said.getvalue().replace('Could not import OneDL\n', ''))
gc.freeze()
gc.enable()
