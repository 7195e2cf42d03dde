"""The one extension point: a supervision turns a Trace into named, weighted losses."""

from abc import ABCMeta, abstractmethod

from mmengine.model import BaseModule
from torch import Tensor

from mmcds.taps import NetworkInfo, Tap
from mmcds.trace import Trace


class Supervision(BaseModule, metaclass=ABCMeta):
    """Base class of every extra loss of the paper, ours and the rivals'.

    A subclass stores its hyper-parameters and declares what it needs in ``__init__``; the classifier measures
    the network and calls :meth:`bind`, where the subclass creates its parameters; every training step calls
    :meth:`forward`. Parameters live under ``supervisions.<name>.`` in checkpoints and never run at test time.

    Attributes:
        taps: Places of the backbone whose output must be in ``trace.features``.
        min_views: Views per image that the pipeline must at least deliver.
        needs_sample_idx: Whether ``trace.sample_idx`` must be there.
    """

    taps: tuple[Tap, ...] = ()
    min_views: int = 1
    needs_sample_idx: bool = False

    @abstractmethod
    def bind(self, network: NetworkInfo) -> None:
        """Create the parameters that depend on the network.

        Args:
            network: Measured widths and strides of the taps, and the number of classes.

        Raises:
            ConfigError: If the method cannot work on this network.
        """

    @abstractmethod
    def forward(self, trace: Trace) -> dict[str, Tensor]:
        """Compute the losses of one step.

        Returns:
            Scalars by name. A name contains ``loss`` if and only if the value is to be optimised, in which case
            it is weighted already; every other value is logged.
        """
