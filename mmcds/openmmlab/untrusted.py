"""Reading files that somebody else wrote: nothing in a checkpoint is executed.

A pickle can run any code when it is read, and the text of a config in a checkpoint is Python. So checkpoints are read
with ``torch.load(weights_only=True)`` and a short list of further types that MMEngine puts into them, and the texts of
configs in them are taken apart as literals. :func:`guard_mmengine` makes all readers of MMEngine do the same,
whichever way a file comes in: ``load_from``, ``--resume``, ``init_cfg``, a teacher, ``get_model``, inferencers,
detectors.

``MMCDS_TRUST_CHECKPOINT=1``, or ``--trust-checkpoint`` of a tool, reads a file as PyTorch used to, with a warning. It
is for old files of a known origin.
"""

import ast
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import mmengine.runner.checkpoint
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.logging.history_buffer import HistoryBuffer

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.work_dir import is_intact

#: Environment variable that lets every file be read; inherited by the processes of a training.
TRUST = 'MMCDS_TRUST_CHECKPOINT'
TYPES = ('bool', 'uint8', 'int16', 'int32', 'int64', 'uint32', 'float16', 'float32', 'float64')


def _statistic(owner: object, name: str) -> object:
    """Stand in for ``getattr`` in a checkpoint: MMEngine pickles the methods of a history so, and nothing else."""
    if not (owner is HistoryBuffer or isinstance(owner, HistoryBuffer)) or name.startswith('_'):
        raise pickle.UnpicklingError(f'it asks for the attribute {name!r} of {owner!r}')
    return getattr(owner, name)


def _allowed() -> list:
    """Return what a checkpoint of MMEngine holds beside tensors and plain values."""
    core = np._core if hasattr(np, '_core') else np.core
    names = [(core.multiarray.scalar, f'{module}.multiarray.scalar') for module in ('numpy.core', 'numpy._core')]
    names += [
        (core.multiarray._reconstruct, f'{module}.multiarray._reconstruct') for module in ('numpy.core', 'numpy._core')
    ]
    kinds = dict.fromkeys(type(np.dtype(name)) for name in (*TYPES, 'object', 'str'))
    return [(_statistic, 'builtins.getattr'), *names, HistoryBuffer, slice, np.ndarray, np.dtype, *kinds]


def trusted() -> bool:
    """Return whether files are read as they are."""
    return os.environ.get(TRUST) == '1'


def _read(reader: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call ``torch.load`` or a relative of it so that nothing is executed, and check the configs in what it returns.

    Raises:
        ConfigError: If the file is damaged, or if reading it would run code.
    """
    if trusted():
        print_log(f'{source} is read as {TRUST}=1 says: whatever its author wrote into it is run.', level=30)
        return reader(**options, weights_only=False)
    try:
        with torch.serialization.safe_globals(_allowed()):
            loaded = reader(**options, weights_only=True)
    except URLError:
        raise
    except Exception as error:  # of any kind, depending on where a file is damaged
        reason = ' '.join(str(error).split())
        needed = re.search(r'GLOBAL (\S+)|(unrecognized function \S+|the attribute \S+)', reason)
        if isinstance(error, pickle.UnpicklingError) and needed:
            raise ConfigError(
                f'{source} is not read, because it could run code: it needs {needed[1] or needed[2]}. If you know '
                f'where it comes from, give --trust-checkpoint, or {TRUST}=1 in the environment.'
            ) from error
        raise ConfigError(
            f'{source} is damaged or no checkpoint ({type(error).__name__}: {reason[:120]}). Name an intact file.'
        ) from error
    if isinstance(loaded, dict):
        for text in _config_texts(loaded):
            read_config_text(text, source)
    return loaded


def _config_texts(checkpoint: dict) -> list[str]:
    """Return the texts of configs in a checkpoint that MMEngine would execute."""
    meta = checkpoint.get('meta')
    hub = checkpoint.get('message_hub')
    runtime = hub.get('runtime_info') if isinstance(hub, dict) else None
    found = [part.get(key) for part in (meta, runtime) if isinstance(part, dict) for key in ('cfg', 'config')]
    return [text for text in found if isinstance(text, str)]


def read_checkpoint(path: str | Path, map_location: Any = 'cpu', **_: Any) -> Any:
    """Read a file of ``torch.save`` without executing anything in it.

    Args:
        path: The file, or an open one.
        map_location: As in ``torch.load``.

    Raises:
        ConfigError: If the file does not exist, is damaged, or could run code.
    """
    if not isinstance(path, str | Path):
        return _read(lambda **options: torch.load(path, **options), 'the checkpoint', map_location=map_location)
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f'checkpoint {path} does not exist. Name a file such as work_dirs/NAME/epoch_90.pth.')
    if zipfile.is_zipfile(file) and not is_intact(file):
        raise ConfigError(f'{path} is damaged: a checksum in it does not fit. Name an intact file.')
    return _read(lambda **options: torch.load(file, **options), str(path), map_location=map_location)


def read_url(url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True, **_: Any) -> Any:
    """Download a checkpoint, or take it from the cache, and read it as :func:`read_checkpoint` does."""

    def reader(**options: Any) -> Any:
        return torch.hub.load_state_dict_from_url(url, model_dir, progress=progress, **options)

    return _read(reader, url, map_location=map_location)


def guard_mmengine() -> None:
    """Let MMEngine read every checkpoint by the functions above; safe to call again.

    Its own reader tries ``weights_only=True`` first and falls back to executing what the file says.
    """
    mmengine.runner.checkpoint._safe_torch_load = read_checkpoint
    mmengine.runner.checkpoint.load_url = read_url


def _literal(node: ast.expr) -> Any:
    """Return the value of an expression of literals, to which ``dict(key=value)`` and ``dict({...})`` count.

    Raises:
        ValueError: At anything else.
    """
    if isinstance(node, ast.Call):
        if not (isinstance(node.func, ast.Name) and node.func.id == 'dict'):
            raise ValueError(f'a call of {ast.unparse(node.func)}')
        first = node.args[0] if node.args else ast.Dict([], [])
        if len(node.args) > 1 or not isinstance(first, ast.Dict) or any(each.arg is None for each in node.keywords):
            raise ValueError(ast.unparse(node)[:60])
        return {**_literal(first), **{each.arg: _literal(each.value) for each in node.keywords}}
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError('a starred dict')
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_literal(each) for each in node.elts)
    if isinstance(node, ast.Name) and node.id in ('inf', 'nan'):  # as Python writes these numbers
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Name):
        return -_literal(node.operand)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        raise ValueError(ast.unparse(node)[:60]) from error


def read_config_text(text: str, source: str | Path) -> Config:
    """Read the text of a config as data: assignments of literals, which is all that MMEngine writes.

    Raises:
        ConfigError: If it holds anything else.
    """
    values = {}
    try:
        for statement in ast.parse(text).body:
            if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1):
                raise ValueError(ast.unparse(statement)[:60])
            target = statement.targets[0]
            if not isinstance(target, ast.Name):
                raise ValueError(ast.unparse(statement)[:60])
            values[target.id] = _literal(statement.value)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(
            f'{source} is not read, because the config in it is not plain data: {" ".join(str(error).split())}. If '
            f'you know where it comes from, give --trust-checkpoint, or {TRUST}=1 in the environment.'
        ) from error
    return Config(values)
