"""What one training forward pass produced: the only thing that a supervision sees.

Shape letters used in the whole package: V views, N images, M = V * N rows (view-major: row ``v * N + n`` is
view v of image n), C channels, H and W size, D embedding width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: A place of a network: the number of a stage, or the name of a module.
Tap = int | str


def tap_name(tap: Tap) -> str:
    """Return the name of a tap in log and checkpoint keys: ``stage2``, or the module name with ``-`` for ``.``."""
    return f'stage{tap}' if isinstance(tap, int) else tap.replace('.', '-')


@dataclass(frozen=True)
class StepOutputs:
    """One forward pass of the V views of N images through a network.

    Attributes:
        num_views: V.
        features: Output of every tap that some supervision asked for. Each (M, C_s, H_s, W_s).
        pooled: Last feature after global pooling, the classifier's input. (M, C).
        logits: Class scores of all rows. (M, K).
        labels: Class of every image, -1 where it is unlabelled. (N,), int64.
        sample_idx: Position of every image in its data set, or None if the data loader did not say it. (N,).
        progress: Share of the run that is done, in [0, 1].
        embeddings: What :meth:`mmcds.core.Supervision.embed` of each supervision returned, by the name
            of the supervision and the tap: rows of unit length, (V, N, D).
        teacher: What the frozen teacher made of the same images, without gradient, or None.
        num_labelled: How many images have a label, if that is known without waiting for a GPU.
        watched: Whether what is only logged is wanted at this step.
    """

    num_views: int
    features: Mapping[Tap, Tensor]
    pooled: Tensor
    logits: Tensor
    labels: Tensor
    sample_idx: Tensor | None
    progress: float
    embeddings: Mapping[str, Mapping[Tap, Tensor]] = field(default_factory=dict)
    teacher: StepOutputs | None = None
    num_labelled: int | None = None
    watched: bool = True

    def per_view(self, rows: Tensor) -> Tensor:
        """Split view-major rows (M, ...) into (V, N, ...) without a copy."""
        return rows.unflatten(0, (self.num_views, -1))

    def of_views(self, rows: Tensor, views: Sequence[int]) -> Tensor:
        """Return the rows of some views, (len(views) * N, ...); without a copy if there is one."""
        chosen = [self.per_view(rows)[view] for view in views]
        return chosen[0] if len(chosen) == 1 else torch.cat(chosen)
