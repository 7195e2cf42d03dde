"""The one extension point: a supervision turns a Trace into named, weighted losses."""

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping

from mmengine.model import BaseModule
from torch import Tensor

from mmcds.taps import NetworkInfo, Tap
from mmcds.trace import Trace


class Supervision(BaseModule, metaclass=ABCMeta):
    """Base class of every extra loss of the paper, ours and the rivals'.

    A subclass stores its hyper-parameters and declares what it needs in ``__init__``; the classifier measures
    the network and calls :meth:`bind`, where the subclass creates its parameters; every training step calls
    :meth:`embed` of all supervisions and then :meth:`forward` of all. Parameters live under
    ``supervisions.<name>.`` in checkpoints and never run at test time.

    Attributes:
        name: Its key in the classifier's ``supervisions``, set by the classifier before :meth:`bind`.
        taps: Places of the backbone whose output must be in ``trace.features``.
        min_views: Views per image that the pipeline must at least deliver.
        needs_sample_idx: Whether ``trace.sample_idx`` must be there.
        needs_teacher: Whether ``trace.teacher`` must be there.
        teacher_taps: Places of the teacher's backbone whose output must be in ``trace.teacher.features``.
        embeddings_of: Other supervisions, by name, whose embeddings this one reads from ``trace.embeddings``;
            they are bound first, and ``network.embeddings`` knows their widths.
        teacher_embeddings_of: The same of the teacher, read from ``trace.teacher.embeddings``.
        embedding_channels: Width of everything that :meth:`embed` returns; to be set by :meth:`bind`.
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
    def bind(self, network: NetworkInfo) -> None:
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

    def embed(self, trace: Trace) -> dict[Tap, Tensor]:
        """Compute what other supervisions may compare with; it is done once per step.

        Args:
            trace: The step's trace, still without ``embeddings`` and ``teacher``.

        Returns:
            Rows of unit length by tap, each (V, N, D); nothing by default.
        """
        return {}

    @abstractmethod
    def forward(self, trace: Trace) -> dict[str, Tensor]:
        """Compute the losses of one step.

        Returns:
            Scalars by name. A name contains ``loss`` if and only if the value is to be optimised, in which case
            it is weighted already; every other value is logged.
        """
