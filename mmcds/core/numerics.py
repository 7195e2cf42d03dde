"""Arithmetic and layers that several methods share: exact losses, unit rows, normalisation, first weights."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmcds.core.errors import ConfigError


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return the tensor as float32, or as float64 if it is that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def exact(function: Callable) -> Callable:
    """Turn autocast off in a loss, and give it floating-point tensors as float32 or float64; a decorator.

    Products of features and exponentials of logits overflow in half precision.
    """

    def cast(value: Any) -> Any:
        return at_least_float32(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    @wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        device = next((value.device.type for value in args if isinstance(value, Tensor)), 'cpu')
        with torch.autocast(device, enabled=False):
            return function(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

    return inner


def check_all(conditions: Tensor, message: str) -> None:
    """Refuse a step of which a condition does not hold.

    Args:
        conditions: Any shape, bool.
        message: What is wrong, and the fix.

    Raises:
        ConfigError: On the CPU. A GPU is not waited for: it stops by itself, and the message stands above its error.
        RuntimeError: With this message, from compiled code on the CPU.
    """
    if conditions.is_cpu and not torch.compiler.is_compiling():
        if not conditions.all():
            raise ConfigError(message)
    else:
        torch._assert_async(conditions.all(), message)


def first_places(numbers: Tensor) -> Tensor:
    """Return for every entry the place where its number stands first, without waiting for a GPU.

    Args:
        numbers: (N,), integer.

    Returns:
        (N,), int64.
    """
    ordered, order = numbers.sort(stable=True)  # equal numbers lie side by side, the first one first
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    places = torch.arange(len(numbers), device=numbers.device)
    run = torch.where(begins, places, 0).cummax(0).values  # where the run of equal numbers begins
    return torch.empty_like(order).scatter_(0, order, order[run])


@exact
def unit_rows(rows: Tensor) -> Tensor:
    """Divide rows (N, D) by their length; a row of zeros stays one."""
    return F.normalize(rows, dim=1, eps=1e-6)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, averaged over the labelled rows; 0 with zero gradient if there are none.

    Args:
        logits: Class scores (N, K).
        labels: Class of every row, -1 where it is unlabelled. (N,).

    Returns:
        Scalar, at least float32.
    """
    logits = at_least_float32(logits)
    rows = F.cross_entropy(logits, labels, ignore_index=-1, reduction='none')
    return rows.sum() / (labels >= 0).sum().clamp(min=1)


def mean_of_labelled(values: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of the values (N,) of rows with a label, which is -1 for the others (N,); 0 if there is none."""
    labelled = labels >= 0
    return (values * labelled).sum() / labelled.sum().clamp(min=1)


NORMS: dict[str, type[nn.Module]] = {
    'BN': nn.BatchNorm2d,
    'SyncBN': nn.SyncBatchNorm,
    'GN': nn.GroupNorm,
}


def build_norm(config: Mapping[str, Any], channels: int) -> nn.Module:
    """Build a normalisation layer.

    Args:
        config: ``dict(type='BN')``, ``'SyncBN'`` or ``'GN'`` (with ``num_groups``), and arguments of the layer;
            ``requires_grad=False`` freezes it.
        channels: C.

    Raises:
        ConfigError: If the type is unknown.
    """
    arguments = dict(config)
    kind, trained = arguments.pop('type'), arguments.pop('requires_grad', True)
    if kind not in NORMS:
        raise ConfigError(f'norm_cfg names {kind!r}; choose one of {", ".join(NORMS)}.')
    if kind == 'GN':
        layer: nn.Module = nn.GroupNorm(num_channels=channels, **arguments)
    else:
        layer = NORMS[kind](channels, **arguments)
    return layer.requires_grad_(trained)


def init_heads(module: nn.Module, linear_std: float | None = None) -> None:
    """Draw the first weights of heads: convolutions Kaiming-normal (fan out), norms 1, biases 0.

    Args:
        module: What holds the layers.
        linear_std: Standard deviation of the weights of linear layers; None leaves these as they are.
    """
    layers = _post_order(module)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out', nonlinearity='relu')
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in layers:
        if isinstance(layer, _BatchNorm | nn.GroupNorm) and layer.weight is not None:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in layers:
        if isinstance(layer, nn.Linear) and linear_std is not None:
            nn.init.normal_(layer.weight, std=linear_std)
            nn.init.zeros_(layer.bias)


def _post_order(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    module.apply(found.append)
    return found


def init_parts(module: nn.Module) -> None:
    """Call ``init_weights`` of the parts of a module that have it, in their order, outermost first."""
    for child in module.children():
        initialise = getattr(child, 'init_weights', None)
        if callable(initialise):
            initialise()
        else:
            init_parts(child)
