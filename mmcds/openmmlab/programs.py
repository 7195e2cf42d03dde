"""A classifier as a program for other runtimes: ONNX, and PyTorch's ``.pt2``; raw pixels in, logits out.

A program proves itself before it gets its name: it is read again, and run on batches of other sizes than the one
that it was traced with.
"""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmpretrain.models.utils import ShiftWindowMSA
from torch import Tensor

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hub import PixelClassifier
from mmcds.openmmlab.work_dir import put_in_place

FORMATS = {'onnx': '.onnx', 'torch-export': '.pt2'}
#: Types of the pixels that a program can take.
PIXELS = {'uint8': torch.uint8, 'float32': torch.float32}
#: Largest difference of logits from PyTorch's, as a share of the largest logit.
TOLERANCE = 1e-4
#: Batches on which a program is tried; it is traced with two images.
BATCHES = (1, 3)


def export_program(
    model: PixelClassifier, out: str | Path, format: str, *, pixels: str = 'uint8', overwrite: bool = False
) -> float:
    """Write a classifier as a program that takes RGB images (N, 3, H, W) of its size and returns logits (N, K).

    Args:
        model: The classifier.
        out: File to write, ``.onnx`` or ``.pt2``.
        format: ``onnx``, whose input is ``pixels``, output ``logits``, and whose metadata has the names of the
            classes (``classes``, JSON) and what else is known; or ``torch-export``, with the same in its extra
            file ``mmcds.json``.
        pixels: Type of the input, ``uint8`` or ``float32``; from 0 to 255 either way.
        overwrite: Replace a file that exists.

    Returns:
        Largest difference of its logits from the model's, as a share of the largest logit.

    Raises:
        ConfigError: If an option is unknown, a file exists, a package is missing, or the network cannot be
            exported or computes something else then.
    """
    out = Path(out)
    if format not in FORMATS or pixels not in PIXELS:
        raise ConfigError(
            f'format is {format!r} and pixels is {pixels!r}; choose one of {", ".join(FORMATS)} and of '
            f'{", ".join(PIXELS)}.'
        )
    if out.suffix != FORMATS[format]:
        raise ConfigError(f'{out} ends with {out.suffix!r}; {format} files end with {FORMATS[format]}.')
    if out.exists() and not overwrite:
        raise ConfigError(f'{out} exists and is not overwritten. Choose another name or give --overwrite.')
    if format == 'onnx':
        _check_onnx()
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f'.partial.{out.name}')
    try:
        program = _trace(model, pixels)
        run = (_write_onnx if format == 'onnx' else _write_pt2)(model, program, partial)
        worst = max(_difference(model, run, pixels, batch) for batch in BATCHES)
        if not worst <= TOLERANCE:
            raise ConfigError(
                f'the {format} file differs from PyTorch by {worst:.1e} of the largest logit; it is not written. '
                'Report the config.'
            )
        put_in_place(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return worst


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f'--format onnx needs {error.name}: pip install onnx onnxruntime onnxscript.') from error


def _images(model: PixelClassifier, pixels: str, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    shape = (batch, 3, *model.info['image_size'])
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(PIXELS[pixels])


def _trace(model: PixelClassifier, pixels: str) -> torch.export.ExportedProgram:
    """Trace with a batch of any size."""
    shapes = {'pixels': {0: torch.export.Dim('batch')}}
    model = deepcopy(model).to(memory_format=torch.contiguous_format)  # other runtimes choose their own
    network: Any = model.network
    network.channels_last = False
    original = ShiftWindowMSA.window_reverse
    ShiftWindowMSA.window_reverse = staticmethod(_join_windows)
    try:
        return torch.export.export(model, (_images(model, pixels, 2),), dynamic_shapes=shapes)
    except Exception as error:  # of any kind, depending on the code of the network
        reason = ' '.join(str(error).split())[:160]
        kind = model.info['model']['backbone']['type']
        raise ConfigError(
            f'{kind} cannot be traced for batches of any size ({type(error).__name__}: {reason}). Use --format hf.'
        ) from error
    finally:
        ShiftWindowMSA.window_reverse = staticmethod(original)


def _join_windows(windows: Tensor, height: int, width: int, side: int) -> Tensor:
    """Put windows (N * number, side, side, C) of a Swin Transformer together, (N, height, width, C).

    MMPretrain's own function makes N a plain number, which fixes the size of the batch.
    """
    grid = windows.unflatten(0, (-1, height // side, width // side))  # (N, rows, columns, side, side, C)
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _metadata(model: PixelClassifier) -> dict[str, str]:
    """Return what a file says of itself, as texts."""
    leave = ('model', 'id2label', 'label2id', 'architectures', 'model_type')
    found = {key: value for key, value in model.info.items() if key not in leave}
    return {key: json.dumps(value) for key, value in {'classes': model.classes, **found}.items()}


def _write_pt2(model: PixelClassifier, program: torch.export.ExportedProgram, path: Path) -> Any:
    torch.export.save(program, path, extra_files={'mmcds.json': json.dumps(_metadata(model))})
    return torch.export.load(path).module()


def _write_onnx(model: PixelClassifier, program: torch.export.ExportedProgram, path: Path) -> Any:
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporter, about its own insides
        onnx_program: Any = torch.onnx.export(
            program, input_names=['pixels'], output_names=['logits'], dynamo=True, verbose=False
        )
    onnx_program.model.metadata_props.update(_metadata(model))
    onnx_program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return lambda images: torch.from_numpy(session.run(['logits'], {'pixels': images.numpy()})[0])


@torch.no_grad()
def _difference(model: PixelClassifier, run: Any, pixels: str, batch: int) -> float:
    images = _images(model, pixels, batch)
    expected = model(images)
    return ((run(images) - expected).abs().max() / expected.abs().max()).item()
