"""The training step inside MMPretrain: an image classifier with supervisions."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from mmengine.logging import MessageHub
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier
from mmpretrain.models.utils.batch_augments import RandomBatchAugment
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.named_losses import Losses
from mmcds.core.numerics import check_all
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.recompute import recompute, stages_of
from mmcds.core.step import Supervisions, TrainingStep, check_ce_views
from mmcds.core.taps import NetworkInfo, TappedBackbone
from mmcds.data.sample_batch import SampleBatch
from mmcds.openmmlab.backbone import build_backbone
from mmcds.openmmlab.teacher import LoadedTeacher

#: Parts of a classifier that can be frozen.
PARTS = ('backbone', 'neck', 'head')


def run_progress() -> float:
    """Return the share of the current run that is done, in [0, 1]; 0 outside a runner."""
    hub = MessageHub.get_current_instance()
    total = hub.get_info('max_iters') if 'max_iters' in hub.runtime_info else 0
    return hub.get_info('iter') / total if total and 'iter' in hub.runtime_info else 0.0


def run_is_watched() -> bool:
    """Return whether the log wants the values of this step; a run that does not say so wants those of all."""
    hub = MessageHub.get_current_instance()
    return 'watched' not in hub.runtime_info or bool(hub.get_info('watched'))


def labels_of(samples: SampleBatch | Sequence[DataSample]) -> Tensor:
    """Return the labels (N,) of a batch."""
    if isinstance(samples, SampleBatch):
        if samples.labels is None:
            raise ConfigError(
                'CDSClassifier: the samples carry no labels. Keep gt_label in the pipeline; -1 means unlabelled.'
            )
        return samples.labels
    return torch.cat([sample.gt_label for sample in samples])


def indices_of(samples: SampleBatch | Sequence[DataSample]) -> Tensor | None:
    """Return sample_idx (N,) of a batch; None if the pipeline did not pack it."""
    metas = samples.metas if isinstance(samples, SampleBatch) else samples
    indices = [meta.get('sample_idx') for meta in metas]
    return None if None in indices else torch.tensor(indices)


class StepInputs(NamedTuple):
    """What a training step works with: tensors on the device of the model, and numbers that only the host knows.

    Attributes:
        views: (V, N, 3, H, W), or (N, 3, H, W) for a single view.
        labels: Class of every image, -1 where it is unlabelled. (N,).
        sample_idx: Index of every image in its data set, or None. (N,).
        num_labelled: How many images have a label, if the host knows it.
        progress: Share of the run that is done.
        watched: Whether what is only logged is wanted.
    """

    views: Tensor
    labels: Tensor
    sample_idx: Tensor | None
    num_labelled: int | None
    progress: float
    watched: bool


@MODELS.register_module()
class CDSClassifier(TrainingStep, ImageClassifier):
    r"""An MMPretrain classifier whose intermediate stages get extra losses during training.

    The step itself is :class:`mmcds.core.TrainingStep`, the same as in
    :class:`mmcds.ContrastiveDeepSupervision`. At test time, and without supervisions on a single view also in
    training, it is MMPretrain's :class:`~mmpretrain.models.ImageClassifier` with the same parameters and cost.

    Args:
        backbone: Backbone config; stages that a supervision taps are added to its ``out_indices``.
        neck: Neck before the classifier, e.g. global average pooling.
        head: Classification head of MMPretrain; its ``loss`` is the cross-entropy.
        supervisions: Configs of :class:`mmcds.core.Supervision` by name. The name prefixes log and
            checkpoint keys. ``None`` as a value removes an inherited entry.
        teacher: Arguments of :class:`mmcds.openmmlab.teacher.LoadedTeacher`: ``config``, ``checkpoint``, ``mode``.
            Needed by distillation, loaded when training starts, never part of this model's state.
        taps: Places whose output the step's outputs shall carry beyond what the supervisions ask for.
        ce_views: Views that get cross-entropy, averaged. The released code uses view 0 only.
        channels_last: Keep images and weights in channels_last memory layout; same result, usually faster.
            ``'auto'`` leaves networks with 1x1 convolutions of fewer than 16 channels contiguous, which ``True``
            refuses: on a CPU, PyTorch (up to 2.14 at least) writes outside its memory there in the backward pass.
        recompute_stages: Activation checkpointing: keep only the inputs of the backbone's stages for the backward
            pass and run them again there. Less memory for about a third more time; same result.
        frozen: Parts of ``backbone``, ``neck`` and ``head`` that are not trained; they stay in eval mode.
        pretrained: Checkpoint to start from.
        train_cfg: ``augments`` (and ``probs``) of MMPretrain's Mixup, CutMix and their like. Cross-entropy sees the
            images of ``ce_views`` mixed, as in MMPretrain; the supervisions compare the views as they are, so with
            some of them the mixed images pass the network beside the views. Every image needs a label.
        data_preprocessor: Defaults to :class:`mmcds.views.preprocessor.CDSDataPreprocessor`.
        init_cfg: Weight initialisation.

    Raises:
        ConfigError: If supervisions, teacher, taps, views, head and preprocessor do not fit together.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | list[dict] | None = None,
        head: dict | None = None,
        supervisions: dict[str, dict | None] | None = None,
        teacher: dict | None = None,
        taps: Sequence[Tap] = (),
        ce_views: Sequence[int] = (0,),
        channels_last: bool | str = False,
        recompute_stages: bool = False,
        frozen: Sequence[str] = (),
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        _check_parts(head, train_cfg, frozen)
        built = Supervisions({name: config for name, config in (supervisions or {}).items() if config})
        taps = (*taps, *built.all_taps())
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {'type': 'CDSDataPreprocessor', **(data_preprocessor or {})}
        self.mixing: Any = RandomBatchAugment(**deepcopy(dict(train_cfg))) if train_cfg else None
        self._beside: Tensor | None = None
        self._logits_beside: Tensor | None = None
        super().__init__(
            backbone=build_backbone(backbone, taps),
            neck=neck,
            head=head,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self._check_classes()
        self.ce_views = check_ce_views('CDSClassifier', ce_views)
        self.recompute_stages = stages_of(self.backbone) if recompute_stages else ()
        self._tapped = TappedBackbone(self.backbone, taps)
        built.check_teacher(teacher is not None)
        self.teacher = None if teacher is None else LoadedTeacher(supervisions=built, **teacher)
        self.supervisions = built
        if built:
            teacher_info = None if self.teacher is None else self.teacher.measure()
            built.build(replace(self.measure(), teacher=teacher_info))
        self.frozen = tuple(frozen)
        for part in self.frozen:
            self.get_submodule(part).requires_grad_(False)
        self.channels_last = self._can_be_channels_last(channels_last)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def _check_classes(self) -> None:
        """Check that head and preprocessor know the same number of classes."""
        num_classes = getattr(self.head, 'num_classes', None)
        expected = getattr(self.data_preprocessor, 'num_classes', None)
        if expected is not None and num_classes is not None and expected != num_classes:
            raise ConfigError(
                f'CDSClassifier: head.num_classes is {num_classes} but '
                f'data_preprocessor.num_classes is {expected}. Set both to the number of classes '
                'of the data set.'
            )

    def _can_be_channels_last(self, wish: bool | str) -> bool:
        """Decide on the memory layout; see ``channels_last`` of the class."""
        if wish not in (True, False, 'auto'):
            raise ConfigError(f"CDSClassifier: channels_last is {wish!r}; choose True, False or 'auto'.")
        thin = [
            name
            for name, layer in self.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and min(layer.weight.shape[:2]) < 16
        ]
        if wish is True and thin:
            raise ConfigError(
                f'CDSClassifier: channels_last is True, but {thin[0]} is a 1x1 convolution of fewer than 16 channels, '
                "for which PyTorch's backward pass on a CPU writes outside its memory in this layout. Set "
                "channels_last to 'auto' or False."
            )
        return bool(wish and not thin)

    def measure(self) -> NetworkInfo:
        """Return widths, strides and number of classes, without running the network."""
        network = self._tapped.measure(self.backbone, getattr(self.head, 'num_classes', None))
        return replace(
            network,
            pooled_channels=getattr(self.head, 'in_channels', None) or network.pooled_channels,
            embeddings=self.supervisions.embedding_channels(),
        )

    def init_weights(self) -> None:
        """Initialise the student and load the teacher: what a runner does when a training starts.

        Random weights are drawn in the order in which they lie in memory, so they are drawn before they get their
        layout: the layout changes no result.
        """
        self.to(memory_format=torch.contiguous_format)
        super().init_weights()
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.teacher is not None:
            self.teacher.load()

    def train(self, mode: bool = True) -> 'CDSClassifier':
        """Switch to training, or to evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for part in getattr(self, 'frozen', ()):
            self.get_submodule(part).eval()
        return self

    def extract_feat(self, inputs: Tensor, stage: str = 'neck') -> tuple[Tensor, ...] | Tensor:
        """Extract features as MMPretrain does; after the backbone only its last output goes on."""
        if stage == 'backbone':
            return super().extract_feat(self._layout(inputs), stage)
        feats = self._pool(self.backbone(self._layout(inputs))[-1])
        return feats if stage == 'neck' else self.head.pre_logits(feats)

    def loss(self, inputs: Tensor, data_samples: SampleBatch | list[DataSample]) -> dict[str, Tensor]:
        """Compute all losses of one step.

        Args:
            inputs: Views (V, N, 3, H, W), or (N, 3, H, W) for a single view.
            data_samples: One per image; label -1 means unlabelled.

        Returns:
            ``loss_ce``, then ``<supervision>.<name>`` for every value of every supervision.

        Raises:
            ConfigError: If fewer views arrive than a supervision or ``ce_views`` needs.
        """
        return self.losses_of(self.step_inputs(inputs, data_samples))

    def step_inputs(self, inputs: Tensor, data_samples: SampleBatch | list[DataSample]) -> StepInputs:
        """Read all that a step needs from a batch and from the run, and bring it to the device."""
        sample_idx = indices_of(data_samples)
        return StepInputs(
            views=inputs,
            labels=labels_of(data_samples).to(inputs.device, non_blocking=True),
            sample_idx=None if sample_idx is None else sample_idx.to(inputs.device, non_blocking=True),
            num_labelled=getattr(data_samples, 'num_labelled', None),
            progress=run_progress(),
            watched=run_is_watched(),
        )

    def losses_of(self, batch: StepInputs) -> dict[str, Tensor]:
        """Compute what :meth:`loss` returns, without a look at anything but the batch."""
        if self.mixing is not None:
            return self._loss_of_mixed(batch)
        outputs = self.outputs_of(batch)
        return {**self._cross_entropy(outputs), **self.supervise(outputs)}

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all losses, and what is logged; scalars, as ours all are, are not averaged once more."""
        if any(not isinstance(value, Tensor) or value.ndim for value in losses.values()):
            return super().parse_losses(losses)
        total = Losses(losses).total
        return total, {'loss': total, **losses}

    def _loss_of_mixed(self, batch: StepInputs) -> dict[str, Tensor]:
        """Return the losses of a step whose cross-entropy sees mixed images; see :meth:`loss`."""
        views, labels = batch.views if batch.views.ndim == 5 else batch.views[None], batch.labels
        if max(self.ce_views) >= len(views):
            raise ConfigError(
                f'CDSClassifier: {len(views)} view(s) per image arrive, but ce_views is {self.ce_views}. Give '
                'MultiViewTransform that many views.'
            )
        check_all(labels >= 0, 'CDSClassifier: mixing images mixes their labels, but some have none (-1).')
        rows = torch.cat([views[view] for view in self.ce_views])
        scores = F.one_hot(labels, self.head.num_classes).to(rows.dtype).repeat(len(self.ce_views), 1)
        mixed, scores = self.mixing(rows, scores)
        if not self.supervisions:
            return {'loss_ce': self._loss_of_scores(self.forward_rows(mixed)[2], scores)}
        self._beside = mixed
        try:
            outputs = self.outputs_of(batch)
            return {'loss_ce': self._loss_of_scores(self._logits_beside, scores), **self.supervise(outputs)}
        finally:
            self._beside = self._logits_beside = None

    def _loss_of_scores(self, logits: Tensor | None, scores: Tensor) -> Tensor:
        return self.head.loss_module(logits, scores, avg_factor=len(scores))

    def outputs(self, inputs: Tensor, data_samples: SampleBatch | list[DataSample]) -> StepOutputs:
        """Run the backbone, and the teacher, once on all views; see :meth:`loss` for the arguments."""
        return self.outputs_of(self.step_inputs(inputs, data_samples))

    def outputs_of(self, batch: StepInputs) -> StepOutputs:
        """Do what :meth:`outputs` does for a batch that was read."""
        how = {}
        if self.teacher is not None:
            how = {key: getattr(self.data_preprocessor, key, None) for key in ('mean', 'std')}
        outputs = self.step_outputs(batch.views, batch.labels, batch.sample_idx, batch.progress, **how)
        return replace(outputs, num_labelled=batch.num_labelled, watched=batch.watched)

    def forward_rows(self, images: Tensor) -> tuple[Mapping[Tap, Tensor], Tensor, Tensor]:
        """Pass rows (M, 3, H, W) through backbone, neck and head, and beside them the images that are mixed."""
        count = len(images)
        if self._beside is not None:
            images = torch.cat([images, self._beside])
        with recompute(self.backbone, self.recompute_stages):
            last, features = self._tapped(self.backbone, self._layout(images))
        feats = self._pool(last)
        width, expected = feats[-1].shape[1:].numel(), getattr(self.head, 'in_channels', None)
        if expected is not None and feats[-1].ndim == 2 and width != expected:
            raise ConfigError(
                f'model.head.in_channels is {expected}, but the backbone delivers {width} channels. Set it to {width}.'
            )
        logits = self.head(feats)
        if self._beside is None:
            return features, feats[-1], logits
        self._logits_beside = logits[count:]
        return {tap: value[:count] for tap, value in features.items()}, feats[-1][:count], logits[:count]

    def _cross_entropy(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return the head's loss of the labelled rows of ``ce_views``; 0 with zero gradient if there are none."""
        logits, labels = self.rows_of_cross_entropy(outputs)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        module, target = self.head.loss_module, labels
        how: dict[str, Any] = {'avg_factor': len(labels)}
        if outputs.num_labelled != len(outputs.labels):  # some have no label, or nobody has counted
            weight, target = (labels >= 0).to(dtype), labels.clamp(min=0)
            how = dict(weight=weight, avg_factor=weight.sum().clamp(min=1))
        if getattr(module, 'use_sigmoid', False) or getattr(module, 'use_soft', False):
            target = F.one_hot(target, logits.shape[1]).to(dtype)
        losses = {'loss_ce': module(logits, target, **how)}
        if getattr(self.head, 'cal_acc', False) and (labels >= 0).any():
            known = labels >= 0
            scores = Accuracy.calculate(logits.detach()[known], labels[known], topk=self.head.topk)
            losses.update({f'accuracy_top-{k}': value for k, value in zip(self.head.topk, scores, strict=True)})
        return losses

    def _layout(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _pool(self, last: Tensor) -> tuple[Tensor, ...]:
        return self.neck((last,)) if self.with_neck else (last,)


def _check_parts(head: dict | None, train_cfg: dict | None, frozen: Sequence[str]) -> None:
    """Check what needs no network."""
    if train_cfg and (unknown := set(train_cfg) - {'augments', 'probs'}):
        raise ConfigError(
            f'CDSClassifier: train_cfg has {sorted(unknown)[0]!r}; it takes augments and probs, such as '
            "dict(augments=[dict(type='Mixup', alpha=0.2)])."
        )
    if train_cfg and (head or {}).get('cal_acc'):
        raise ConfigError('CDSClassifier: head.cal_acc is True, but mixed images have no single class. Leave it out.')
    if head is None:
        raise ConfigError(
            'CDSClassifier: head is None, but training needs its cross-entropy. Set a '
            "classification head, such as dict(type='LinearClsHead', ...)."
        )
    for part in frozen:
        if part not in PARTS:
            raise ConfigError(f'CDSClassifier: frozen names {part!r}; choose among {", ".join(PARTS)}.')


@MODELS.register_module()
class ONEClassifier(CDSClassifier):
    """A network with an ensemble among its supervisions, tested as that ensemble ("ONE-E").

    It has the parameters of the trained model and loads its checkpoint: ``python tools/test.py CONFIG CHECKPOINT
    --cfg-options model.type=ONEClassifier``.

    Raises:
        ConfigError: If not exactly one of its supervisions is an ensemble.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        members = [name for name, part in self.supervisions.items() if hasattr(part, 'classify_ensemble')]
        if len(members) != 1:
            raise ConfigError(
                f'ONEClassifier: {len(members)} of its supervisions are an ensemble, such as ONESupervision; exactly '
                'one is needed.'
            )
        self.member = members[0]

    def ensemble(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K) of the ensemble for images (N, 3, H, W)."""
        features, _, logits = self.forward_rows(inputs)
        member: Any = self.supervisions[self.member]
        return member.classify_ensemble(features, logits)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor') -> Any:
        """Run as MMPretrain's classifier; predictions and tensors are the ensemble's logits."""
        if mode == 'loss':
            return super().forward(inputs, data_samples, mode)
        logits = self.ensemble(inputs)
        return logits if mode == 'tensor' else self.head._get_predictions(logits, data_samples)
