"""Put the emulated operators where mmcv looks for its compiled ones.

This changes mmcv: it looks its operators up in the extension module ``mmcv._ext``. Where that cannot be imported (it
is absent, or was compiled against another PyTorch), :func:`install_operators` puts a module of that name in its place.
It runs when :mod:`mmcds.detection` is imported, and at no other time.
"""

import ast
import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import torchvision
from mmengine.logging import MMLogger

from mmcds.core.errors import ConfigError
from mmcds.detection.operators.common import HOW_TO_COMPILE
from mmcds.detection.operators.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmcds.detection.operators.focal import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward
from mmcds.detection.operators.nms import nms, nms_match, softnms
from mmcds.detection.operators.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

NAME = 'mmcv._ext'


def get_compiler_version() -> str:
    """Return what the environment table of MMDetection shows as mmcv's compiler."""
    return f'none, operators emulated by torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """Return what the environment table of MMDetection shows as mmcv's CUDA."""
    return 'none'


_FUNCTIONS = (
    nms,
    softnms,
    nms_match,
    roi_align_forward,
    roi_align_backward,
    roi_pool_forward,
    roi_pool_backward,
    sigmoid_focal_loss_forward,
    sigmoid_focal_loss_backward,
    deform_conv_forward,
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    modulated_deform_conv_forward,
    modulated_deform_conv_backward,
    get_compiler_version,
    get_compiling_cuda_version,
)

#: What users know the emulated operators by.
EMULATED = (
    'nms',
    'soft_nms',
    'nms_match',
    'roi_align',
    'roi_pool',
    'sigmoid_focal_loss',
    'deform_conv2d',
    'modulated_deform_conv2d',
)


def _refused(name: str) -> Callable:
    """Return a function that stands for an operator without emulation: mmcv looks all names up when it is imported."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConfigError(
            f'mmcv._ext.{name} is not compiled here and is not among the emulated operators ({", ".join(EMULATED)}). '
            f'Use a model without it, or compile mmcv: {HOW_TO_COMPILE}'
        )

    return refuse


def stand_in() -> ModuleType:
    """Return a module with the functions above under their names, and with a refusal under any other."""
    module = ModuleType(NAME, __doc__)
    module.__spec__ = ModuleSpec(NAME, loader=None, origin=f'torchvision {torchvision.__version__}')
    for function in _FUNCTIONS:
        setattr(module, function.__name__, function)

    def lookup(name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        return _refused(name)

    module.__getattr__ = lookup  # type: ignore[method-assign]
    return module


def operators_problem() -> str | None:
    """Return why mmcv's compiled operators cannot be used, in one line, or None if they can."""
    if is_emulated():
        return 'emulated'
    try:
        importlib.import_module(NAME)
    except (ImportError, OSError) as error:
        return str(error).strip().splitlines()[0]
    return None


def is_emulated() -> bool:
    """Return whether the stand-in is what mmcv uses."""
    return getattr(sys.modules.get(NAME), 'nms', None) is nms


def _repeat_failed_imports() -> None:
    """Give modules that were imported too early the operators that they asked for.

    MMPretrain imports parts of MMDetection, and these put functions and classes that raise in the place of operators
    which they cannot import. Their source says which names these are: ``try: from mmcv.ops import NAME``.
    """
    for name, module in list(sys.modules.items()):
        source = getattr(module, '__file__', None) or ''
        if name.split('.')[0] not in ('mmdet', 'mmpretrain') or not source.endswith('.py'):
            continue
        text = Path(source).read_text(encoding='utf-8')
        if 'mmcv.ops' not in text:
            continue
        attempts = [node for node in ast.parse(text).body if isinstance(node, ast.Try)]
        for statement in (statement for attempt in attempts for statement in attempt.body):
            if isinstance(statement, ast.ImportFrom) and (statement.module or '').startswith('mmcv.ops'):
                origin = importlib.import_module(statement.module or '')
                for alias in statement.names:
                    setattr(module, alias.asname or alias.name, getattr(origin, alias.name))


def install_operators() -> bool:
    """Make ``mmcv.ops`` importable: compiled operators if they work, else the stand-in; safe to call again.

    Returns:
        Whether operators are emulated.
    """
    if is_emulated():
        return True
    problem = operators_problem()
    if problem is None:
        return False
    module = stand_in()
    sys.modules[NAME] = module
    importlib.import_module('mmcv')._ext = module  # type: ignore[attr-defined]
    _repeat_failed_imports()
    MMLogger.get_current_instance().info(
        f'mmcv has no working compiled operators ({problem}). Emulated by torchvision: {", ".join(EMULATED)}; any '
        'other raises an error when it is called.'
    )
    return True
