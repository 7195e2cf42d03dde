"""Wait for a package: run a function as soon as somebody has imported it, or at once if that has happened already."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Then(Loader):
    """Runs a module by its own loader, then a function, once."""

    def __init__(self, loader: Loader, waiting: '_Waiting') -> None:
        self._loader, self._waiting = loader, waiting

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if self._waiting in sys.meta_path:
            sys.meta_path.remove(self._waiting)
            self._waiting.function()


class _Waiting(MetaPathFinder):
    """Finds one package as everybody else does, and lets a function follow its import.

    It stays until the package is imported: MMEngine only looks for a package to find the configs in its folder.
    """

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self.name, self.function = name, function

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self.name or self not in sys.meta_path:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (other.find_spec(name, path, target) for other in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, self)
        return spec


def after_import(package: str, function: Callable[[], None]) -> None:
    """Call ``function`` once ``package`` is imported; now, if it is already.

    Args:
        package: Name of a top-level package, which need not be installed.
        function: Is called without arguments.
    """
    if package in sys.modules:
        function()
    else:
        sys.meta_path.insert(0, _Waiting(package, function))


def name_configs() -> None:
    """Let MMEngine take ``mmcds::cds/resnet50_in1k.py`` for a config of this package."""
    from mmengine.config.utils import MODULE2PACKAGE

    MODULE2PACKAGE.setdefault('mmcds', 'mmcds')


def require(package: str, extra: str, what: str) -> None:
    """Check that a package is installed that a part of mmcds needs.

    Raises:
        ModuleNotFoundError: Saying what needs it and how to install it.
    """
    try:
        found = package in sys.modules or importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ModuleNotFoundError(
            f"{what} needs {package}, which is not installed: pip install '.[{extra}]' in the folder of mmcds, or "
            f"'FILE.whl[{extra}]' with its wheel. "
            'Training with plain PyTorch (mmcds.ContrastiveDeepSupervision) needs nothing else.',
            name=package,
        )
