"""The error that a user can mend."""


class ConfigError(ValueError):
    """A config, data set or checkpoint is wrong; the message names the thing, its value and the mend.

    The command-line tools print it as one line without a traceback.
    """
