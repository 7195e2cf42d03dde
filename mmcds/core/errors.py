"""The error that a user can fix."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config, data set or checkpoint is wrong; the message names the thing, its value and the fix.

    The command-line tools print it as one line without a traceback.
    """


class DivergedError(RuntimeError):
    """The training itself has gone wrong: a value that must be finite is not."""


def did_you_mean(name: object, names: Iterable[str], otherwise: str) -> str:
    """Return the question for the name that is nearest to one that is unknown, or what to say if none is near."""
    near = difflib.get_close_matches(str(name), list(names), 1)
    return f'Did you mean {near[0]}?' if near else otherwise
