"""The entry point that MMEngine calls when it builds a model of another package by name."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Register every class of mmcds and of MMPretrain.

    Args:
        init_default_scope: Also make ``mmpretrain`` the default scope of this process.
    """
    import mmpretrain.utils

    import mmcds.openmmlab  # noqa: F401  (registers on import)

    mmpretrain.utils.register_all_modules(init_default_scope=init_default_scope)
