"""Where the configs, tools and the model index of this installation lie."""

from pathlib import Path


def resources() -> Path:
    """Return the folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    This is ``mmcds/.mim`` in an installed package (links in an editable one) and the repository itself in a
    checkout that was put on the path without being installed.

    Raises:
        FileNotFoundError: If the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim', package.parent):
        if (folder / 'model-index.yml').is_file():
            return folder
    raise FileNotFoundError(
        f'mmcds: neither {package / ".mim"} nor {package.parent} holds model-index.yml and configs; the '
        'installation is incomplete. Reinstall with `pip install .` in the folder of mmcds.'
    )
