"""The one extension point: a supervision turns the outputs of a step into named, weighted losses."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import init_parts
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.taps import NetworkInfo


class Supervision(nn.Module, metaclass=ABCMeta):
    """Base class of every extra loss, the paper's own and those it is compared with.

    A subclass stores its hyper-parameters and declares what it needs in ``__init__``; the training step measures
    the network and calls :meth:`build`, where the subclass creates its parameters; every step calls
    :meth:`embed` of all supervisions and then :meth:`forward` of all. Parameters live under
    ``supervisions.<name>.`` in checkpoints and never run at test time.

    Attributes:
        name: Its key among the supervisions of a training step, set before :meth:`build`.
        taps: Places of the network whose output must be in ``outputs.features``.
        min_views: Views per image that the data loader must at least deliver.
        needs_sample_idx: Whether ``outputs.sample_idx`` must be there.
        needs_teacher: Whether ``outputs.teacher`` must be there.
        teacher_taps: Places of the teacher whose output must be in ``outputs.teacher.features``.
        embeddings_of: Other supervisions, by name, whose embeddings this one reads from ``outputs.embeddings``;
            they are built first, and ``network.embeddings`` knows their widths.
        teacher_embeddings_of: The same of the teacher, read from ``outputs.teacher.embeddings``.
        embedding_channels: Width of everything that :meth:`embed` returns; to be set by :meth:`build`.
    """

    name: str = ''
    taps: tuple[Tap, ...] = ()
    min_views: int = 1
    needs_sample_idx: bool = False
    needs_teacher: bool = False
    teacher_taps: tuple[Tap, ...] = ()
    embeddings_of: tuple[str, ...] = ()
    teacher_embeddings_of: tuple[str, ...] = ()
    embedding_channels: Mapping[Tap, int] = {}

    @abstractmethod
    def build(self, network: NetworkInfo) -> None:
        """Create the parameters that depend on the network.

        Args:
            network: Measured widths and strides of the taps, the number of classes, and the same of the teacher.

        Raises:
            ConfigError: If the method cannot work on this network.
        """

    def prepare(self, labels: Tensor) -> None:
        """Learn about the training set, if ``needs_sample_idx``; called before a run starts or is resumed.

        Args:
            labels: Class of every training image by ``sample_idx``, -1 where it is unlabelled. (n,).

        Raises:
            ConfigError: If the method cannot work with them.
        """

    def init_weights(self) -> None:
        """Draw the first weights of the parts that draw them in their own way."""
        init_parts(self)

    def embed(self, outputs: StepOutputs) -> dict[Tap, Tensor]:
        """Compute what other supervisions may compare with; it is done once per step.

        Args:
            outputs: What the step produced so far, still without ``embeddings`` and ``teacher``.

        Returns:
            Rows of unit length by tap, each (V, N, D); nothing by default.
        """
        return {}

    @abstractmethod
    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Compute the losses of one step.

        Returns:
            Scalars by name. A name contains ``loss`` if and only if the value is to be optimised, in which case
            it is weighted already; every other value is logged.
        """

    def check_positive(self, **values: float) -> None:
        """Check that hyper-parameters are above 0.

        Raises:
            ConfigError: With the name and the value of the first one that is not.
        """
        for name, value in values.items():
            if not value > 0:
                hint = ', or remove the supervision by setting it to None' if name == 'loss_weight' else ''
                raise ConfigError(f'{type(self).__name__}: {name} is {value}; give it a positive value{hint}.')

    def check_choice(self, name: str, value: str, allowed: Sequence[str]) -> None:
        """Check that an option has one of its values.

        Raises:
            ConfigError: Naming all of them.
        """
        if value not in allowed:
            raise ConfigError(f'{type(self).__name__}: {name} is {value!r}; choose one of {", ".join(allowed)}.')

    def check_taps(self, example: str = '(0, 1, 2)') -> None:
        """Check that there is a tap.

        Raises:
            ConfigError: If nothing would be supervised.
        """
        if not self.taps:
            raise ConfigError(
                f'{type(self).__name__}: taps is empty, so nothing is supervised. Name at least one stage, such as '
                f'taps={example}.'
            )


class ViewSupervision(Supervision):
    """Base class of methods that were made for one view per image.

    Args:
        views: Views that the method sees; the rows of several views are treated as more images. None means all.

    Raises:
        ConfigError: If there is no view.
    """

    def __init__(self, views: Sequence[int] | None = (0,)) -> None:
        super().__init__()
        if views is not None and (not views or min(views) < 0):
            raise ConfigError(
                f'{type(self).__name__}: views is {tuple(views)}; name at least one view, counted from 0.'
            )
        self.views = tuple(views or ())  # empty means all
        self.min_views = max(self.views, default=0) + 1

    def select(self, rows: Tensor, outputs: StepOutputs) -> Tensor:
        """Return the rows (M, ...) of the chosen views, (len(views) * N, ...)."""
        return rows if not self.views or outputs.num_views == 1 else outputs.of_views(rows, self.views)

    def select_labels(self, outputs: StepOutputs) -> Tensor:
        """Return the labels of the rows of the chosen views, (len(views) * N,)."""
        return outputs.labels.repeat(len(self.views) or outputs.num_views)


class TeacherSupervision(ViewSupervision):
    """Base class of distillation: compares a student's outputs with those of its teacher.

    Args:
        loss_weight: Weight of the method's term. That of the cross-entropy is ``head.loss.loss_weight``.
        views: Views that the method sees; None means all.
        taps: Taps of the student.
        teacher_taps: Taps of the teacher that belong to them. Defaults to the same.

    Raises:
        ConfigError: If the weight is not positive, or if the taps do not correspond.
    """

    needs_teacher = True

    def __init__(
        self,
        loss_weight: float,
        views: Sequence[int] | None = (0,),
        taps: Sequence[Tap] = (),
        teacher_taps: Sequence[Tap] | None = None,
    ) -> None:
        super().__init__(views)
        self.check_positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight
        self.taps = tuple(taps)
        self.teacher_taps = self.taps if teacher_taps is None else tuple(teacher_taps)
        self.check_pairs(self.taps, self.teacher_taps)

    def check_pairs(self, taps: Sequence[Tap], teacher_taps: Sequence[Tap]) -> None:
        """Check that student and teacher have as many taps.

        Raises:
            ConfigError: Naming both.
        """
        if len(taps) != len(teacher_taps):
            raise ConfigError(
                f'{type(self).__name__}: the student has taps {tuple(taps)} and the teacher {tuple(teacher_taps)}, so '
                'they do not correspond. Give both as many, in the same order, by taps and teacher_taps.'
            )

    def build(self, network: NetworkInfo) -> None:
        """Build nothing: the method has no parameters."""

    def pairs(self, outputs: StepOutputs) -> list[tuple[Tensor, Tensor]]:
        """Return the maps of student and teacher at every pair of taps, in the chosen views."""
        assert outputs.teacher is not None
        return [
            (self.select(outputs.features[own], outputs), self.select(outputs.teacher.features[other], outputs))
            for own, other in zip(self.taps, self.teacher_taps, strict=True)
        ]

    def pooled(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """Return the pooled features of student (N, C_s) and teacher (N, C_t), in the chosen views."""
        assert outputs.teacher is not None
        return self.select(outputs.pooled, outputs), self.select(outputs.teacher.pooled, outputs)

    def logits(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """Return the logits of student and teacher (N, K), in the chosen views."""
        assert outputs.teacher is not None
        return self.select(outputs.logits, outputs), self.select(outputs.teacher.logits, outputs)
