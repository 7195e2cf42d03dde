"""Classes by name, so that a config ``dict(type='SupConLoss', temperature=0.1)`` can say what to build."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

from mmcds.core.errors import ConfigError

Class = TypeVar('Class', bound=type)


class Registry:
    """A table of classes by name.

    Args:
        name: What the classes are, for messages.
        packages: Packages that register classes; they are imported when a name is first asked for. One that does not
            exist is left out.

    Attributes:
        fallback: Builds what this table does not hold, or returns None; the adapter of a library puts its own builder
            here, so that our configs may name its classes too.
    """

    def __init__(self, name: str, packages: Sequence[str] = ()) -> None:
        self.name, self.packages = name, packages
        self.fallback: Callable[[dict[str, Any]], Any] | None = None
        self._classes: dict[str, type] = {}
        self._mirrors: list[Callable[[type], None]] = []

    def register(self, cls: Class) -> Class:
        """Register a class under its own name; use it as a decorator.

        Raises:
            ConfigError: If another class has this name.
        """
        name = cls.__name__
        if self._classes.get(name, cls) is not cls:
            raise ConfigError(
                f'{self.name}: {name} is registered already, by {self._classes[name].__module__}. Choose another name.'
            )
        self._classes[name] = cls
        for mirror in self._mirrors:
            mirror(cls)
        return cls

    def load(self) -> None:
        """Import the packages that register classes."""
        packages, self.packages = self.packages, ()
        for package in packages:
            if find_spec(package) is not None:
                import_module(package)

    def mirror(self, callback: Callable[[type], None]) -> None:
        """Call ``callback`` with every class of the table, those that are registered later included."""
        self.load()
        self._mirrors.append(callback)
        for cls in self._classes.values():
            callback(cls)

    def build(self, config: Any) -> Any:
        """Build what a config describes; an object that is no mapping is returned as it is.

        Args:
            config: ``dict(type=NAME or class, **arguments)``. A prefix such as ``mmcds.`` before the name is allowed.

        Raises:
            ConfigError: If there is no ``type``, or no class of that name.
        """
        if not isinstance(config, Mapping):
            return config
        arguments = {key: value for key, value in config.items() if key != '_scope_'}
        kind = arguments.pop('type', None)
        if kind is None:
            raise ConfigError(f'{self.name}: {dict(config)} names no class. Add type=..., such as type=SupConLoss.')
        if not isinstance(kind, str):
            return kind(**arguments)
        self.load()
        cls = self._classes.get(kind.rsplit('.', 1)[-1])
        if cls is not None:
            return cls(**arguments)
        if self.fallback is not None:
            found = self.fallback(dict(config))
            if found is not None:
                return found
        near = difflib.get_close_matches(kind, self._classes, n=3, cutoff=0.4) or sorted(self._classes)[:3]
        raise ConfigError(
            f'{self.name}: there is no {kind!r}; similar names: {", ".join(near)}. Correct the name, or import the '
            'file that registers it.'
        )


#: Losses, projection heads and supervisions.
MODELS = Registry('models', ('mmcds.losses', 'mmcds.heads', 'mmcds.methods', 'mmcds.baselines'))
