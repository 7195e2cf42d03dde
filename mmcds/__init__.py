"""Contrastive Deep Supervision (CDS, ECCV 2022) for PyTorch, and as a plugin of MMPretrain and MMDetection.

The parts, the inner ones first; a folder imports only those above it::

    core/         the method: outputs of a step, taps, supervisions, the training step, its teacher   PyTorch only
    losses/       NT-Xent, SupCon, SINCERE, and the gather across ranks                               PyTorch only
    heads/        projection heads                                                                    PyTorch only
    methods/      the paper's own: contrastive supervision, distillation                              PyTorch only
    baselines/    the methods that the paper compares with, one file each                             PyTorch only
    views/        from a decoded image to normalised views on the device
    networks/     networks that MMPretrain lacks, and forms of its own for small images
    data/         data sets that MMPretrain lacks, partially labelled sets and their batches
    openmmlab/    the adapter: classifier, hooks, checkpoints, registration
    detection/    mmcv's operators without a compiler, checks of a detector's run
    evaluation/   calibration, what the stages know, curves
    paper/        the paper's tables as data, their configs, and our results beside them
    study/        what the contrast adds: the plan of our study, and its comparison of arms
    cli/          what the command-line tools share

Importing this package costs nothing. Once MMPretrain is imported too, before or after it, its classes are in
MMPretrain's registries, its models in :func:`mmpretrain.list_models` and its configs found as ``mmcds::...``.
"""

from typing import Any

from mmcds.after_import import after_import
from mmcds.version import __version__

__all__ = ['ContrastiveDeepSupervision', '__version__']


def __getattr__(name: str) -> Any:
    """Import the plain PyTorch interface when it is first asked for."""
    if name == 'ContrastiveDeepSupervision':
        from mmcds.core.plain import ContrastiveDeepSupervision

        return ContrastiveDeepSupervision
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _name_configs() -> None:
    """Let MMEngine find our configs as ``mmcds::...``."""
    from mmcds.after_import import name_configs

    name_configs()


def _register() -> None:
    """Register every class in MMPretrain's registries."""
    import mmcds.openmmlab  # noqa: F401


after_import('mmengine', _name_configs)
after_import('mmpretrain', _register)
