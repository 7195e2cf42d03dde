"""The training step of every method: one forward pass of all views, then cross-entropy plus all supervisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.named_losses import is_loss
from mmcds.core.numerics import init_parts
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.registry import MODELS
from mmcds.core.supervision import Supervision
from mmcds.core.taps import NetworkInfo
from mmcds.core.teacher import Teacher


class Supervisions(nn.ModuleDict):
    """The extra losses of a training step, by name.

    Args:
        supervisions: Supervisions or their configs. ``None`` as a value removes an inherited entry.

    Raises:
        ConfigError: If a name cannot prefix log and checkpoint keys, if an entry is no supervision, or if one reads
            the embeddings of another that is not there.
    """

    def __init__(self, supervisions: Mapping[str, Supervision | Mapping | None] | None = None) -> None:
        built = {name: MODELS.build(config) for name, config in (supervisions or {}).items() if config is not None}
        for name, supervision in built.items():
            if not name.isidentifier() or is_loss(name) or hasattr(type(self), name):
                raise ConfigError(
                    f'supervisions: the name {name!r} prefixes log and checkpoint keys; use letters, digits and '
                    "underscores, without 'loss', and no name of a method of nn.ModuleDict."
                )
            if not isinstance(supervision, Supervision):
                raise ConfigError(
                    f'supervisions: {name!r} is a {type(supervision).__name__}, which is no Supervision. Name one, '
                    "such as dict(type='ContrastiveSupervision', ...)."
                )
            for other in supervision.embeddings_of:
                if other not in built:
                    raise ConfigError(
                        f'supervisions: {name!r} reads the embeddings of {other!r}, but the supervisions are '
                        f'{sorted(built)}. Name one of them.'
                    )
            supervision.name = name
        super().__init__(built)

    def parts(self) -> list[Supervision]:
        """Return the supervisions, in their order."""
        return [cast(Supervision, part) for part in self.values()]

    def all_taps(self) -> tuple[Tap, ...]:
        """Return the places of the network where someone listens."""
        return tuple(dict.fromkeys(tap for part in self.parts() for tap in part.taps))

    def users_of_teacher(self) -> list[Supervision]:
        """Return those that compare with a teacher."""
        return [part for part in self.parts() if part.needs_teacher]

    def check_teacher(self, given: bool) -> None:
        """Check that there is a teacher if and only if someone listens to it.

        Raises:
            ConfigError: If it is missing or of no use.
        """
        users = self.users_of_teacher()
        if users and not given:
            raise ConfigError(
                f'supervisions: {users[0].name!r} needs a teacher. Give one (model.teacher=dict(config=..., '
                'checkpoint=...) in a config), or remove the supervision by setting it to None.'
            )
        if given and not users:
            raise ConfigError(
                'there is a teacher, but no supervision listens to it. Add one, such as '
                "dict(type='LogitDistillation'), or remove the teacher."
            )

    def embedding_channels(self) -> dict[str, Mapping[Tap, int]]:
        """Return the widths of what every supervision embeds."""
        return {part.name: part.embedding_channels for part in self.parts()}

    def build(self, network: NetworkInfo) -> None:
        """Let the supervisions create their parameters, those first whose embeddings others read.

        The random stream stays as it was, so that a method starts from the weights of its plain twin.
        """
        with torch.random.fork_rng(devices=[]):
            for reads in (False, True):
                network = replace(network, embeddings=self.embedding_channels())
                for part in self.parts():
                    if bool(part.embeddings_of) == reads:
                        part.build(network)

    def init_weights(self) -> None:
        """Draw the first weights of all supervisions, in their order."""
        init_parts(self)


class TrainingStep:
    r"""The training step, to be mixed into a module.

    .. math:: L = L_{CE}\bigl(c_K(x), y\bigr) + \sum_m L_m(\text{outputs}) \qquad \text{(Eq. 5, generalised)}

    All V views pass the network as one batch of M = V * N rows, so BatchNorm statistics mix the views, as in the
    released code.

    Attributes:
        supervisions: The extra losses.
        teacher: The frozen network that some of them compare with, or None.
        ce_views: Views that get cross-entropy, averaged. The released code uses view 0 only.
    """

    supervisions: Supervisions
    teacher: Teacher | None
    ce_views: tuple[int, ...]

    def forward_rows(self, images: Tensor) -> tuple[Mapping[Tap, Tensor], Tensor, Tensor]:
        """Pass rows (M, 3, H, W) through the network; return features of the taps, pooled feature and logits."""
        raise TypeError(f'{type(self).__name__} does not say how it runs its network')

    @property
    def min_views(self) -> int:
        """Return how many views per image a step needs."""
        return max([part.min_views for part in self.supervisions.parts()] + [max(self.ce_views) + 1])

    def run(self, views: Tensor, labels: Tensor, sample_idx: Tensor | None, progress: float) -> StepOutputs:
        """Pass the views (V, N, 3, H, W) through the network and let every supervision embed; no teacher."""
        features, pooled, logits = self.forward_rows(views.flatten(0, 1))
        outputs = StepOutputs(
            num_views=len(views),
            features=features,
            pooled=pooled,
            logits=logits,
            labels=labels,
            sample_idx=sample_idx,
            progress=progress,
        )
        return replace(outputs, embeddings={part.name: part.embed(outputs) for part in self.supervisions.parts()})

    def step_outputs(
        self, views: Tensor, labels: Tensor, sample_idx: Tensor | None = None, progress: float = 0.0, **how: Any
    ) -> StepOutputs:
        """Run the network, and the teacher, once on all views.

        Args:
            views: (V, N, 3, H, W), or (N, 3, H, W) for a single view.
            labels: Class of every image, -1 where it is unlabelled. (N,), int64.
            sample_idx: Index of every image in its data set. (N,), int64.
            progress: Share of the run that is done.
            **how: Further arguments of the teacher.

        Raises:
            ConfigError: If fewer views arrive than are needed, or no indices although they are needed.
        """
        views = views if views.ndim == 5 else views[None]
        if len(views) < self.min_views:
            raise ConfigError(
                f'{type(self).__name__}: {len(views)} view(s) per image arrive, but {self.min_views} are '
                'needed by the supervisions and ce_views. Give MultiViewTransform, or your own transform, that many '
                'views.'
            )
        for part in self.supervisions.parts():
            if part.needs_sample_idx and sample_idx is None:
                raise ConfigError(
                    f'{type(self).__name__}: supervision {part.name!r} needs sample_idx, but the data loader did '
                    'not say it. Keep sample_idx in PackInputs.meta_keys, or pass it to the call.'
                )
        outputs = self.run(views, labels, sample_idx, progress)
        if self.teacher is None:
            return outputs
        return replace(outputs, teacher=self.teacher(views, labels, sample_idx, progress, **how))

    def rows_of_cross_entropy(self, outputs: StepOutputs) -> tuple[Tensor, Tensor]:
        """Return logits and labels of the rows of ``ce_views``."""
        return outputs.of_views(outputs.logits, self.ce_views), outputs.labels.repeat(len(self.ce_views))

    def supervise(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<supervision>.<name>`` for every value of every supervision."""
        return {
            f'{part.name}.{key}': value for part in self.supervisions.parts() for key, value in part(outputs).items()
        }


def check_ce_views(owner: str, ce_views: Sequence[int]) -> tuple[int, ...]:
    """Check that views are named, counted from 0.

    Raises:
        ConfigError: If there is none, or a negative number.
    """
    if not ce_views or min(ce_views) < 0:
        raise ConfigError(f'{owner}: ce_views is {tuple(ce_views)}; name at least one view, counted from 0.')
    return tuple(ce_views)


def taps_of_teacher(supervisions: Iterable[Supervision]) -> tuple[list[Tap], list[str]]:
    """Return the teacher's taps that supervisions compare with, and its supervisions whose embeddings they read."""
    users = [part for part in supervisions if part.needs_teacher]
    return (
        list(dict.fromkeys(tap for part in users for tap in part.teacher_taps)),
        list(dict.fromkeys(name for part in users for name in part.teacher_embeddings_of)),
    )
