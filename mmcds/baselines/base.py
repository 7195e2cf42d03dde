"""What the baselines share: the views they look at, and the checks of their weights and taps."""

from collections.abc import Sequence

from torch import Tensor

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.supervision import Supervision
from mmcds.core.taps import NetworkInfo


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

    def select(self, rows: Tensor, outputs: StepOutputs) -> Tensor:
        """Rows (M, ...) of the chosen views: (len(views) * N, ...)."""
        return rows if outputs.num_views == 1 else outputs.per_view(rows)[list(self.views)].flatten(0, 1)

    def positive(self, **values: float) -> None:
        """Refuse hyper-parameters that are not above 0.

        Raises:
            ConfigError: With the name and the value of the first one.
        """
        for name, value in values.items():
            if not value > 0:
                raise ConfigError(f'{type(self).__name__}: {name} is {value}; it must be above 0.')


class TeacherSupervision(ViewSupervision):
    """Base class of distillation: compares a student's StepOutputs with that of its teacher.

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

    def build(self, network: NetworkInfo) -> None:
        """Nothing to build: the method has no parameters."""

    def pairs(self, outputs: StepOutputs) -> list[tuple[Tensor, Tensor]]:
        """Maps of student and teacher at every pair of taps, in the chosen views."""
        assert outputs.teacher is not None
        return [
            (self.select(outputs.features[own], outputs), self.select(outputs.teacher.features[other], outputs))
            for own, other in zip(self.taps, self.teacher_taps, strict=True)
        ]

    def pooled(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """Pooled last features of student (N, C_s) and teacher (N, C_t), in the chosen views."""
        assert outputs.teacher is not None
        return self.select(outputs.pooled, outputs), self.select(outputs.teacher.pooled, outputs)


def at_least_one_tap(owner: str, taps: Sequence[Tap]) -> None:
    """Refuse an empty list.

    Raises:
        ConfigError: If there is no tap.
    """
    if not taps:
        raise ConfigError(f'{owner}: taps is empty, so nothing is supervised. Name at least one stage.')
