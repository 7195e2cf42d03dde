"""Contrastive deep supervision of any PyTorch network: the door for timm, torchvision, Lightning and your own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.measure import Call, calls_of, channels_last_taps, ghost_of
from mmcds.core.named_losses import Losses
from mmcds.core.numerics import cross_entropy
from mmcds.core.outputs import Tap
from mmcds.core.step import Supervisions, TrainingStep, check_ce_views, taps_of_teacher
from mmcds.core.supervision import Supervision
from mmcds.core.taps import NetworkInfo, TapInfo, check_module_names, last_map, listen, measure_map
from mmcds.core.teacher import Teacher


def logits_of(output: Any) -> Tensor:
    """Return the class scores (M, K) among what a network puts out: a tensor, or an object or dict with ``logits``.

    Raises:
        ConfigError: If there are none.
    """
    if isinstance(output, Mapping):
        output = output.get('logits')
    elif not isinstance(output, Tensor):
        output = getattr(output, 'logits', output)
    if not isinstance(output, Tensor) or output.ndim != 2:
        what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f'the network puts out {what}; class scores (M, K), or an object whose `logits` are such, are needed. '
            'Wrap the network in a module that returns them.'
        )
    return output


class PlainNetwork:
    """Finds out what a supervision must know about any classification network, and runs it.

    The classifier is the last linear layer that runs and puts out as many values as the network, and the final map
    is the last map before it that is not pooled.

    Args:
        model: The network; it maps images (M, 3, H, W) to class scores.
        taps: Names of modules.
        image_size: Side of the images, or height and width. Defaults to what timm or Hugging Face models say of
            themselves, else 224.
        classifier: Name of the layer whose input is the pooled feature, where the rule does not find it.

    Raises:
        ConfigError: If a tap is no module, or if the classifier is not found.
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Iterable[Tap],
        image_size: int | Sequence[int] | None = None,
        classifier: str | None = None,
    ) -> None:
        self.taps = tuple(str(tap) if isinstance(tap, str) else self._no_number(model, tap) for tap in taps)
        check_module_names(model, (*self.taps, *([classifier] if classifier is not None else [])))
        size = self._image_size(model) if image_size is None else image_size
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        self.classifier = classifier or ''
        self.info = self._measure(model)

    @staticmethod
    def _no_number(model: nn.Module, tap: Tap) -> str:
        raise ConfigError(
            f'{type(model).__name__}: tap {tap!r} is a number, which only backbones of OpenMMLab know. Name a module, '
            f'such as {[name for name, _ in model.named_children()][:6]}.'
        )

    @staticmethod
    def _image_size(model: nn.Module) -> int | Sequence[int]:
        timm = getattr(model, 'pretrained_cfg', None) or {}
        if isinstance(timm, Mapping) and timm.get('input_size'):
            return timm['input_size'][1:]
        hugging_face = getattr(getattr(model, 'config', None), 'image_size', None)
        return hugging_face or getattr(model, 'img_size', None) or getattr(model, 'image_size', None) or 224

    @torch.no_grad()
    def _measure(self, model: nn.Module) -> NetworkInfo:
        ghost, images = ghost_of(model, self.image_size)
        try:
            with calls_of(ghost) as calls, listen(ghost, self.taps, self.image_size) as features:
                logits = logits_of(ghost(images))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f'{type(model).__name__} cannot be measured on an image of {self.image_size[0]} x '
                f'{self.image_size[1]} pixels without data ({error}). Set image_size to the size that it takes.'
            ) from error
        self.classifier = self.classifier or self._last_linear(calls, type(model).__name__, logits.shape[1])
        seen = [call.given[0] for call in calls if call.name == self.classifier and call.given]
        if not seen:
            raise ConfigError(
                f'classifier {self.classifier!r}: this module did not run in the forward pass of '
                f'{type(model).__name__}, or got no positional argument. Name the layer that classifies.'
            )
        self.channels_last = channels_last_taps(calls, self.taps, self.image_size)
        features.update({tap: features[tap].permute(0, 3, 1, 2) for tap in self.channels_last})
        before = calls[: max(place for place, call in enumerate(calls) if call.name == self.classifier)]
        taps: dict[Tap, TapInfo] = {tap: measure_map(value, self.image_size) for tap, value in features.items()}
        final = last_map(before, ghost, images)
        return NetworkInfo(
            name=type(model).__name__,
            taps=taps,
            final=final or next(reversed(taps.values()), TapInfo(logits.shape[1], self.image_size[0])),
            num_classes=logits.shape[1],
            pooled_channels=seen[-1].flatten(1).shape[1],
            backbone=model,
        )

    @staticmethod
    def _last_linear(calls: Iterable[Call], network: str, width: int) -> str:
        """Return the name of the last linear layer that put out so many values."""
        fitting = [
            call.name
            for call in calls
            if isinstance(call.module, nn.Linear)
            and isinstance(call.output, Tensor)
            and call.output.ndim == 2
            and call.output.shape[1] == width
        ]
        if not fitting:
            raise ConfigError(
                f'{network}: no linear layer puts out its {width} class scores. Name the layer '
                "whose input is the pooled feature by classifier='...'."
            )
        return fitting[-1]

    def __call__(self, model: nn.Module, images: Tensor) -> tuple[dict[Tap, Tensor], Tensor, Tensor]:
        """Run the network on (M, 3, H, W); return features of the taps, pooled feature and logits."""
        pooled: list[Tensor] = []

        def before(module: nn.Module, args: tuple) -> None:
            pooled.append(args[0])

        handle = model.get_submodule(self.classifier).register_forward_pre_hook(before)
        try:
            with listen(model, self.taps, images.shape[2:], self.channels_last) as features:
                logits = logits_of(model(images))
        finally:
            handle.remove()
        return features, pooled[-1].flatten(1), logits


class ContrastiveDeepSupervision(TrainingStep, nn.Module):
    """A network with contrastive deep supervision, or with other extra losses, for training.

    The network stays what it is: ``cds.model`` is the object that was given, its parameters keep their names there,
    and nothing of this class runs when it is called alone. Everything that is trained beside it is in
    ``cds.supervisions``; optimise ``cds.parameters()``, save ``cds.model.state_dict()`` for use and
    ``cds.state_dict()`` to resume.

    Args:
        model: The network; it maps images (M, 3, H, W) to class scores (M, K), or to an object whose ``logits`` are
            such.
        taps: Names of modules that get the contrastive loss of Equation 5; it is the supervision ``cds``, with
            projection heads :class:`mmcds.heads.CDSNeck` and :class:`mmcds.losses.SupConLoss` of weight 0.1, as in
            the released code.
        supervisions: Further supervisions, or their configs, by name, such as
            ``dict(kd=dict(type='KDSupervision'))``; ``cds`` replaces the one of ``taps``.
        teacher: Trained network that some supervisions compare with; a :class:`ContrastiveDeepSupervision` where
            they compare its embeddings.
        criterion: Loss of logits (R, K) and labels (R,). Defaults to the cross-entropy of the labelled rows.
        ce_views: Views that get it. The released code uses view 0 only.
        image_size: Side of the images, or height and width, with which strides are measured. Found out for timm and
            Hugging Face models, otherwise 224.
        classifier: Name of the layer whose input is the pooled feature, where it is not the last linear layer.

    Raises:
        ConfigError: If there is nothing to supervise, or if supervisions, taps, teacher and network do not fit.

    Example:
        >>> cds = ContrastiveDeepSupervision(torchvision.models.resnet18(), taps=('layer1', 'layer2', 'layer3'))
        >>> losses = cds(torch.randn(2, 8, 3, 64, 64), torch.arange(8) % 4)
        >>> losses.total.backward()
    """

    def __init__(
        self,
        model: nn.Module,
        taps: Sequence[str] = (),
        supervisions: Mapping[str, Supervision | Mapping | None] | None = None,
        *,
        teacher: nn.Module | Teacher | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
        ce_views: Sequence[int] = (0,),
        image_size: int | Sequence[int] | None = None,
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        first = dict(
            cds=dict(
                type='ContrastiveSupervision',
                taps=tuple(taps),
                neck=dict(type='CDSNeck'),
                loss=dict(type='SupConLoss', loss_weight=0.1),
            )
        )
        self.model = model
        self.criterion = criterion
        self.ce_views = check_ce_views('ContrastiveDeepSupervision', ce_views)
        self.supervisions = Supervisions({**(first if taps else {}), **(supervisions or {})})
        if not self.supervisions:
            raise ConfigError(
                'ContrastiveDeepSupervision: neither taps nor supervisions are given. Name modules, such as '
                f'taps={tuple(name for name, _ in model.named_children())[-4:-1] or ("layer1",)}.'
            )
        self._network = PlainNetwork(model, self.supervisions.all_taps(), image_size, classifier)
        self.teacher = self._teacher(teacher, image_size)
        self.supervisions.build(
            replace(self._network.info, teacher=None if self.teacher is None else self.teacher.measure())
        )
        with torch.random.fork_rng(devices=[]):
            self.supervisions.init_weights()
        reference = next(model.parameters())
        self.supervisions.to(device=reference.device, dtype=reference.dtype)

    def _teacher(self, teacher: nn.Module | Teacher | None, image_size: int | Sequence[int] | None) -> Teacher | None:
        self.supervisions.check_teacher(teacher is not None)
        if teacher is None or isinstance(teacher, Teacher):
            return teacher
        taps, embeddings_of = taps_of_teacher(self.supervisions.parts())
        if not isinstance(teacher, ContrastiveDeepSupervision):
            if embeddings_of:
                raise ConfigError(
                    f'teacher: its embeddings of supervision {embeddings_of[0]!r} are to be distilled, but it is a '
                    f'{type(teacher).__name__}. Give the ContrastiveDeepSupervision that trained it.'
                )
            teacher = _Observed(teacher, taps, image_size)
        else:
            missing = [name for name in embeddings_of if name not in teacher.supervisions]
            if missing:
                raise ConfigError(
                    f'teacher: its embeddings of supervision {missing[0]!r} are to be distilled, but it has '
                    f'{sorted(teacher.supervisions)}. Say which one by `teacher` of EmbeddingDistillation.'
                )
            known = teacher._network
            teacher._network = PlainNetwork(
                teacher.model, (*teacher.supervisions.all_taps(), *taps), known.image_size, known.classifier
            )
        return Teacher(teacher)

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes."""
        return replace(self._network.info, embeddings=self.supervisions.embedding_channels())

    def prepare(self, labels: Tensor) -> None:
        """Tell supervisions that keep something for every image the labels of the training set, once.

        Args:
            labels: Class of every image by its index in the data set, -1 where it is unlabelled. (n,).
        """
        for part in self.supervisions.parts():
            part.prepare(labels)

    def forward_rows(self, images: Tensor) -> tuple[Mapping[Tap, Tensor], Tensor, Tensor]:
        """Pass rows (M, 3, H, W) through the network."""
        return self._network(self.model, images)

    def forward(
        self,
        views: Tensor | Sequence[Tensor],
        labels: Tensor,
        sample_idx: Tensor | None = None,
        progress: float = 0.0,
        watched: bool = True,
    ) -> Losses:
        """Compute all losses of one step.

        Args:
            views: V augmented views of N images: (V, N, 3, H, W), or V tensors (N, 3, H, W).
            labels: Class of every image, -1 where it is unlabelled. (N,), int64.
            sample_idx: Index of every image in its data set, for methods that keep something for each. (N,).
            progress: Share of the run that is done, for methods that ramp their weight.
            watched: Whether values that are not optimised are wanted too; without them a step is faster.

        Returns:
            ``loss_ce``, then ``<supervision>.<name>`` for every value of every supervision; ``.total`` is the sum of
            those whose names contain ``loss``.

        Raises:
            ConfigError: If fewer views arrive than a supervision or ``ce_views`` needs, or labels do not fit.
        """
        stacked = views if isinstance(views, Tensor) else torch.stack(list(views))
        count = stacked.shape[1] if stacked.ndim == 5 else len(stacked)
        if labels.shape != (count,):
            raise ConfigError(
                f'ContrastiveDeepSupervision: labels have shape {tuple(labels.shape)}, but the views show {count} '
                'images, (V, N, 3, H, W). Give one label per image, not per view.'
            )
        outputs = replace(self.step_outputs(stacked, labels, sample_idx, progress), watched=watched)
        return Losses(loss_ce=self.criterion(*self.rows_of_cross_entropy(outputs)), **self.supervise(outputs))


class _Observed(TrainingStep, nn.Module):
    """A trained network whose taps a student's supervisions compare with."""

    def __init__(self, model: nn.Module, taps: Sequence[Tap], image_size: int | Sequence[int] | None) -> None:
        super().__init__()
        self.model, self.supervisions, self.teacher, self.ce_views = model, Supervisions(), None, (0,)
        self._network = PlainNetwork(model, taps, image_size)

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes."""
        return self._network.info

    def forward_rows(self, images: Tensor) -> tuple[Mapping[Tap, Tensor], Tensor, Tensor]:
        """Pass rows (M, 3, H, W) through the network."""
        return self._network(self.model, images)
