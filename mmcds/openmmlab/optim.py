"""Mixed precision in bfloat16, on GPU and CPU alike."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPERS
from torch import Tensor, nn
from torch.library import Library

#: What autocast computes in half precision, of that what networks for images are made of.
PRODUCTS = (
    *('conv1d', 'conv2d', 'conv3d', 'conv1d.padding', 'conv2d.padding', 'conv3d.padding'),
    *('conv_transpose1d', 'conv_transpose2d.input', 'conv_transpose3d.input'),
    *('linear', 'matmul', 'mm', 'bmm', 'addmm', 'baddbmm', 'scaled_dot_product_attention'),
)


def cpu_knows_bfloat16() -> bool:
    """Say whether PyTorch has fast convolutions and products in bfloat16 for this CPU (on x86: from AVX-512 on)."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _product(name: str) -> Callable:
    """Return what autocast on a CPU does for a function of PyTorch, with float32 in place of bfloat16."""
    function, _, overload = name.partition('.')
    operator = getattr(getattr(torch.ops.aten, function), overload or 'default')

    def product(*args: Any, **kwargs: Any) -> Tensor:
        half = torch.get_autocast_dtype('cpu')
        kernel = torch.float32 if half == torch.bfloat16 else half

        def rounded(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == torch.float64:
                return value
            return value.to(half).to(kernel)

        with torch.autocast('cpu', enabled=False):
            result = operator(*map(rounded, args), **{key: rounded(value) for key, value in kwargs.items()})
        return result.to(half) if result.dtype == kernel else result

    return product


@cache
def float32_products() -> Library:
    """Let autocast on CPUs compute products in bfloat16 by kernels of float32: factors and results are rounded.

    That is what a CPU with instructions for bfloat16 does, products of rounded factors summed in float32, up to the
    order of the sums, and their gradients too: those of factors and results pass the same roundings. Without such
    instructions PyTorch has only plain loops for it, which take many times as long as float32.

    It holds for the process, as long as the library that is returned lives.
    """
    library = Library('aten', 'IMPL')
    for name in PRODUCTS:
        library.impl(name, _product(name), 'AutocastCPU')
    return library


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """Run forward passes under autocast to bfloat16; weights, gradients and the optimiser stay float32.

    bfloat16 has the range of float32, so no loss scaling is needed. MMEngine's ``AmpOptimWrapper`` insists on a
    GPU and on a scaler; it remains the choice for float16. On a CPU without instructions for bfloat16 the numbers are
    the same and no time is gained: see :func:`float32_products`.

    Args:
        **kwargs: Arguments of :class:`mmengine.optim.OptimWrapper`.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the model's parameters."""
        device = next(model.parameters()).device.type
        if device == 'cpu' and not cpu_knows_bfloat16():
            float32_products()
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield
