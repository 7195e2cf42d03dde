"""The one extension point: a supervision turns the outputs of a step into named, weighted losses."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

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
