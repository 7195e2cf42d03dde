"""Checks for the kinds of values that settings have."""

import math
from typing import TypeGuard

from mmcds.core.errors import ConfigError


def is_number(value: object) -> TypeGuard[float]:
    """Return whether something is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_number(name: str, value: object, low: float, high: float, what: str, exclusive: bool = False) -> None:
    """Refuse what is no number between two limits; ``what`` describes those that are allowed."""
    if not is_number(value) or not low <= value <= high or (exclusive and value == low):  # type: ignore[operator]
        raise ConfigError(f'{name} is {value!r}. Set it to {what}.')


def check_whole(name: str, value: object, low: int, high: float = math.inf) -> None:
    """Refuse what is no whole number between two limits."""
    if not is_number(value) or int(value) != value or not low <= value <= high:  # type: ignore[call-overload,operator]
        above = 'on' if high == math.inf else f'to {high}'
        raise ConfigError(f'{name} is {value!r}. Set it to a whole number from {low} {above}.')
