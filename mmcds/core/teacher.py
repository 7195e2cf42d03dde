"""The frozen teacher: another network that looks at the same images, beside the student and not in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import StepOutputs
from mmcds.core.taps import NetworkInfo

MODES = ('eval', 'train')


class RunsViews(Protocol):
    """A module that can be a teacher: it measures itself and turns views into outputs."""

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes."""

    def run(self, views: Tensor, labels: Tensor, sample_idx: Tensor | None, progress: float) -> StepOutputs:
        """Pass the views through the network."""


class Teacher:
    """Frozen network run on the student's images; supervisions compare the outputs of both.

    It is no module: optimiser, ``state_dict``, ``train()``, ``to()`` and wrappers of the student never meet it, and
    averaged copies of the student share it. It follows the views to their device and type.

    Args:
        network: The network with its weights, or None if :meth:`load` brings it later.
        mode: ``'eval'``, or ``'train'`` for what the released code does: BatchNorm normalises with the
            statistics of the batch (and its running ones drift, unused), dropout is active.
        mean: Mean that the teacher's images were normalised with. (3,). None if the student's views suit it.
        std: The standard deviation that belongs to it. (3,).

    Raises:
        ConfigError: If the mode is unknown.
    """

    def __init__(
        self,
        network: RunsViews | None,
        mode: str = 'eval',
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(f"teacher: mode is {mode!r}; choose 'eval' or 'train'.")
        self.mode, self.mean, self.std = mode, mean, std
        self._network: RunsViews | None = None
        self._same: bool | None = None
        self._own: tuple[Tensor, ...] = ()
        if network is not None:
            self.freeze(network)

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self

    def freeze(self, network: RunsViews) -> None:
        """Take a network and let nothing change it any more."""
        module = cast(nn.Module, network)
        module.requires_grad_(False)
        module.train(self.mode == 'train')
        self._network = network

    def load(self) -> None:
        """Make sure that the network is there."""

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes."""
        assert self._network is not None
        return self._network.measure()

    @torch.no_grad()
    def __call__(
        self,
        views: Tensor,
        labels: Tensor,
        sample_idx: Tensor | None,
        progress: float = 0.0,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> StepOutputs:
        """Look at the student's views.

        Args:
            views: What the student sees, (V, N, 3, H, W).
            labels: Passed on, (N,).
            sample_idx: Passed on, (N,) or None.
            progress: Passed on.
            mean: Mean of the student's normalisation, (3, 1, 1); None if it has none.
            std: The standard deviation that belongs to it.
        """
        self.load()
        assert self._network is not None
        module: Any = self._network
        own = next(module.parameters())
        if own.device != views.device or own.dtype != views.dtype:
            module.to(device=views.device, dtype=views.dtype)
        return self._network.run(self._normalise(views, mean, std), labels, sample_idx, progress)

    def _normalise(self, views: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
        """Go from the student's mean and standard deviation to the teacher's."""
        if self.mean is None or mean is None or std is None:
            return views
        if self._same is None:
            self._compare(mean, std)
        if self._same:
            return views
        to_mean, to_std = (value.to(mean.device, mean.dtype) for value in self._own)
        return ((views * std + mean - to_mean) / to_std).to(views.dtype)

    @_disable_dynamo  # as torch.compiler.disable, without importing the compiler
    def _compare(self, mean: Tensor, std: Tensor) -> None:
        """Find out whether both normalisations are the same; once, as a GPU would be waited for at every step."""
        self._own = tuple(
            torch.tensor(value, device=mean.device, dtype=mean.dtype).view(-1, 1, 1) for value in (self.mean, self.std)
        )
        self._same = torch.equal(self._own[0], mean) and torch.equal(self._own[1], std)
