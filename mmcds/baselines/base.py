"""What the rivals share: the views they look at, the checks of their weights, and exact arithmetic."""

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.errors import ConfigError
from mmcds.supervisions import Supervision
from mmcds.taps import NetworkInfo, Tap
from mmcds.trace import Trace


def exact(function: Callable) -> Callable:
    """Decorator of a loss: autocast is off, and floating-point tensors become float32, or stay float64.

    Products of features and exponentials of logits overflow in half precision.
    """

    def cast(value: Any) -> Any:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.to(torch.promote_types(value.dtype, torch.float32))
        return value

    @wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        device = next((value.device.type for value in args if isinstance(value, Tensor)), 'cpu')
        with torch.autocast(device, enabled=False):
            return function(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

    return inner


@exact
def unit_rows(rows: Tensor) -> Tensor:
    """Divide rows (N, D) by their length; a row of zeros stays one."""
    return F.normalize(rows, dim=1, eps=1e-6)


class ViewSupervision(Supervision):
    """Base class of rivals, which were made for one view per image.

    Args:
        views: Views that the method sees; the rows of several views are treated as more images.

    Raises:
        ConfigError: If there is no view.
    """

    def __init__(self, views: Sequence[int] = (0,)) -> None:
        super().__init__()
        if not views or min(views) < 0:
            raise ConfigError(
                f'{type(self).__name__}: views is {tuple(views)}; name at least one view, counted from 0.'
            )
        self.views = tuple(views)
        self.min_views = max(views) + 1

    def select(self, rows: Tensor, trace: Trace) -> Tensor:
        """Rows (M, ...) of the chosen views: (len(views) * N, ...)."""
        return rows if trace.num_views == 1 else trace.per_view(rows)[list(self.views)].flatten(0, 1)

    def positive(self, **values: float) -> None:
        """Refuse hyper-parameters that are not above 0.

        Raises:
            ConfigError: With the name and the value of the first one.
        """
        for name, value in values.items():
            if not value > 0:
                raise ConfigError(f'{type(self).__name__}: {name} is {value}; it must be above 0.')


class TeacherSupervision(ViewSupervision):
    """Base class of distillation: compares a student's Trace with that of its teacher.

    Args:
        loss_weight: Weight of the method's term. That of the cross-entropy is ``head.loss.loss_weight``.
        views: Views that the method sees.
        taps: Taps of the student.
        teacher_taps: Taps of the teacher that belong to them. Defaults to the same.

    Raises:
        ConfigError: If the weight is not positive, or if the taps do not correspond.
    """

    needs_teacher = True

    def __init__(
        self,
        loss_weight: float,
        views: Sequence[int] = (0,),
        taps: Sequence[Tap] = (),
        teacher_taps: Sequence[Tap] | None = None,
    ) -> None:
        super().__init__(views)
        self.positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight
        self.taps = tuple(taps)
        self.teacher_taps = self.taps if teacher_taps is None else tuple(teacher_taps)
        if len(self.taps) != len(self.teacher_taps):
            raise ConfigError(
                f'{type(self).__name__}: the student has taps {self.taps} and the teacher {self.teacher_taps}; give '
                'both as many, in the same order.'
            )

    def bind(self, network: NetworkInfo) -> None:
        """Nothing to build: the method has no parameters."""

    def pairs(self, trace: Trace) -> list[tuple[Tensor, Tensor]]:
        """Maps of student and teacher at every pair of taps, in the chosen views."""
        assert trace.teacher is not None
        return [
            (self.select(trace.features[own], trace), self.select(trace.teacher.features[other], trace))
            for own, other in zip(self.taps, self.teacher_taps, strict=True)
        ]

    def pooled(self, trace: Trace) -> tuple[Tensor, Tensor]:
        """Pooled last features of student (N, C_s) and teacher (N, C_t), in the chosen views."""
        assert trace.teacher is not None
        return self.select(trace.pooled, trace), self.select(trace.teacher.pooled, trace)


def at_least_one_tap(owner: str, taps: Sequence[Tap]) -> None:
    """Refuse an empty list.

    Raises:
        ConfigError: If there is no tap.
    """
    if not taps:
        raise ConfigError(f'{owner}: taps is empty, so nothing is supervised. Name at least one stage.')
