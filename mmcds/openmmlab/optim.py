"""Mixed precision in bfloat16, on GPU and CPU alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """Run forward passes under autocast to bfloat16; weights, gradients and the optimiser stay float32.

    bfloat16 has the range of float32, so no loss scaling is needed. MMEngine's ``AmpOptimWrapper`` insists on a
    GPU and on a scaler; it remains the choice for float16.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the model's parameters."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
