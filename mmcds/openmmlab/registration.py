"""What the adapter changes in the libraries of OpenMMLab, all in one place.

- Registries of MMPretrain: our classes are added (:func:`register`).
- ``mmpretrain.list_models``: our model index is added.
- ``mmengine.config.utils.MODULE2PACKAGE``: one entry, so that ``mmcds::`` names our configs; there is no other way.
- mmcv's compiled operators are replaced where they are missing, but only when :mod:`mmcds.detection` is asked for.
  Until then MMPretrain is spared the part of MMDetection that it cannot use without them
  (:func:`without_broken_detection`).
"""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path

from mmcds.after_import import name_configs
from mmcds.core.registry import MODELS
from mmcds.openmmlab.untrusted import guard_mmengine
from mmcds.resources import resources

#: Trained networks, see :mod:`mmcds.openmmlab.zoo`, by the names of the model index.
ZOO = Path(__file__).resolve().parents[1] / 'zoo'
#: What registers classes of MMPretrain's kinds when it is imported.
_MODULES = (
    'data',
    'views.cutout',
    'views.loading',
    'views.multi_view',
    'views.packing',
    'views.preprocessor',
    'views.rotation',
    'networks',
    'openmmlab.classifier',
    'openmmlab.optim',
    'openmmlab.hooks',
    'evaluation.calibration',
)


#: Messages on import about optional components; they are filtered out.
_NOISE = (
    'Could not import OneDL',
    'Line NMS is not compiled',
    'Fail to import ``MultiScaleDeformableAttention``',
    'faster_coco_eval is not installed',
)


@contextmanager
def without_noise() -> Iterator[None]:
    """Import the libraries without the messages above; anything else they say is passed on."""
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


@contextmanager
def without_broken_detection() -> Iterator[None]:
    """Import MMPretrain without parts of MMDetection, where mmcv has no compiled operators.

    MMPretrain asks for one class of MMDetection, and goes without it if that cannot be imported. Without operators it
    cannot, but that takes a third of the time of a whole start to find out.
    """
    try:
        import_module('mmcv._ext')
        broken = False
    except (ImportError, OSError):
        broken = 'mmdet.models' not in sys.modules
    if broken:
        sys.modules['mmdet.models'] = None  # type: ignore[assignment]  # which is how an import is refused
    try:
        yield
    finally:
        if broken:
            del sys.modules['mmdet.models']


_registered = False


def register() -> None:
    """Register classes, the ``mmcds::`` config prefix and the model index; safe to call again."""
    global _registered
    if _registered:
        return
    _registered = True
    name_configs()
    guard_mmengine()
    with without_noise(), without_broken_detection():
        from mmpretrain.apis.model import ModelHub
        from mmpretrain.registry import MODELS as THEIRS

        import_module('mmcds.registry')
        MODELS.mirror(lambda cls: THEIRS.register_module(module=cls))

        def build_theirs(config: dict) -> object | None:
            with THEIRS.switch_scope_and_registry(config.get('_scope_')) as registry:
                known = registry.get(config['type']) is not None
            return THEIRS.build(config) if known else None

        MODELS.fallback = build_theirs
        for module in _MODULES:
            import_module(f'mmcds.{module}')
    folder = resources()
    ModelHub.register_model_index(folder / 'model-index.yml', config_prefix=folder)
    for file in ZOO.glob('*.pth'):
        ModelHub._models_dict[file.stem].weights = str(file)
