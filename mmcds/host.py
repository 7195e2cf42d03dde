"""What `import mmcds` changes in its hosts: class registration, config prefix, model index."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path

_MODULES = (
    'datasets',
    'transforms',
    'preprocessor',
    'losses',
    'networks',
    'necks',
    'supervisions',
    'classifiers',
    'baselines',
    'optim',
    'evaluation',
    'hooks',
)


#: What the hosts say on import about parts of theirs that nobody here asked for.
_NOISE = (
    'Could not import OneDL',
    'Line NMS is not compiled',
    'Fail to import ``MultiScaleDeformableAttention``',
    'faster_coco_eval is not installed',
)


@contextmanager
def without_noise() -> Iterator[None]:
    """Import the hosts without the messages above; anything else they say is passed on."""
    from mmengine.logging import MMLogger

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(_NOISE)

    logger = MMLogger.get_current_instance()
    logger.addFilter(wanted)
    said = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(said):
            for message in _NOISE[2:]:
                warnings.filterwarnings('ignore', message=message)
            yield
    finally:
        logger.removeFilter(wanted)
        for line in said.getvalue().splitlines():
            if not line.startswith(_NOISE):
                print(line)


def resources() -> Path:
    """Folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    This is ``mmcds/.mim`` in an installed package (links in an editable one) and the repository itself in a
    checkout that was put on the path without being installed.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim', package.parent):
        if (folder / 'model-index.yml').is_file():
            return folder
    raise FileNotFoundError(
        f'mmcds: neither {package / ".mim"} nor {package.parent} holds model-index.yml and configs; the '
        'installation is incomplete. Reinstall with `pip install mmcds` or `pip install -e .`.'
    )


def register_in_host() -> None:
    """Register classes, the ``mmcds::`` config prefix and the model index; safe to call again."""
    from mmengine.config.utils import MODULE2PACKAGE

    if 'mmcds' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmcds'] = 'mmcds'
    with without_noise():
        import_module('mmcds.registry')
        for module in _MODULES:
            import_module(f'mmcds.{module}')
        from mmpretrain.apis.model import ModelHub
    folder = resources()
    ModelHub.register_model_index(folder / 'model-index.yml', config_prefix=folder)
