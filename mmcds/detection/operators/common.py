"""What the emulated operators share."""

import torch

HOW_TO_COMPILE = (
    'take the source of onedl-mmcv, write -std=c++20 for -std=c++17 in its setup.py, and run pip install '
    '--no-build-isolation --no-deps . there; docs/detection.md has the recipe.'
)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: float32 for half precision, as torchvision's CPU kernels know no bfloat16."""
    return torch.promote_types(dtype, torch.float32)
