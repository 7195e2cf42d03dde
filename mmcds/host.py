"""What `import mmcds` changes in its hosts: class registration, config prefix, model index."""

from importlib import import_module
from pathlib import Path

_MODULES = ('datasets', 'transforms', 'preprocessor', 'losses', 'necks', 'supervisions', 'classifiers', 'hooks')


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
        'installation is incomplete. Reinstall with `pip install mmcds` or `pip install -e .`.')


def register_in_host() -> None:
    """Register classes, the ``mmcds::`` config prefix and the model index; safe to call again."""
    from mmengine.config.utils import MODULE2PACKAGE
    from mmpretrain.apis.model import ModelHub

    if 'mmcds' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmcds'] = 'mmcds'
    import_module('mmcds.registry')
    for module in _MODULES:
        import_module(f'mmcds.{module}')
    folder = resources()
    ModelHub.register_model_index(folder / 'model-index.yml', config_prefix=folder)
