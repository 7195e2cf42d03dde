"""The error that a user can fix."""


class ConfigError(ValueError):
    """A config, data set or checkpoint is wrong; the message names the thing, its value and the fix.

    The command-line tools print it as one line without a traceback.
    """


class DivergedError(RuntimeError):
    """The training itself has gone wrong: a value that must be finite is not."""
