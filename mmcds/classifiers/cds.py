"""The training step of every method: one forward pass, one Trace, cross-entropy plus all supervisions."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from mmengine.logging import MessageHub
from mmengine.model import ModuleDict
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmcds.classifiers.recompute import recompute_stages, stages_of
from mmcds.classifiers.teacher import Teacher
from mmcds.errors import ConfigError
from mmcds.supervisions import Supervision
from mmcds.taps import NetworkInfo, Tap, TappedBackbone, build_backbone
from mmcds.trace import Trace

#: Parts of a classifier that can be frozen.
PARTS = ('backbone', 'neck', 'head')


def run_progress() -> float:
    """Share of the current run that is done, in [0, 1]; 0 outside a runner."""
    hub = MessageHub.get_current_instance()
    total = hub.get_info('max_iters') if 'max_iters' in hub.runtime_info else 0
    return hub.get_info('iter') / total if total and 'iter' in hub.runtime_info else 0.0


@MODELS.register_module()
class CDSClassifier(ImageClassifier):
    r"""An MMPretrain classifier whose intermediate stages get extra losses during training.

    .. math:: L = L_{CE}\bigl(c_K(x), y\bigr) + \sum_m L_m(\text{Trace}) \qquad \text{(Eq. 5, generalised)}

    All V views pass the backbone as one batch of M = V * N rows, so BatchNorm statistics mix the views, as in
    the released code. At test time, and without supervisions on a single view also in training, it is the
    host's :class:`~mmpretrain.models.ImageClassifier` with the same parameters and cost.

    Args:
        backbone: Backbone config; stages that a supervision taps are added to its ``out_indices``.
        neck: Neck before the classifier, e.g. global average pooling.
        head: Classification head of the host; its ``loss`` is the cross-entropy.
        supervisions: Configs of :class:`mmcds.supervisions.Supervision` by name. The name prefixes log and
            checkpoint keys. ``None`` as a value removes an inherited entry.
        teacher: Arguments of :class:`mmcds.classifiers.teacher.Teacher`: ``config``, ``checkpoint``, ``mode``.
            Needed by distillation, loaded when training starts, never part of this model's state.
        taps: Places whose output the Trace shall carry beyond what the supervisions ask for.
        ce_views: Views that get cross-entropy, averaged. The released code uses view 0 only.
        channels_last: Keep images and weights in channels_last memory layout; same result, usually faster. Networks
            with 1x1 convolutions of fewer than 16 channels stay contiguous: on a CPU, PyTorch (up to 2.14 at least)
            writes outside its memory there in the backward pass.
        recompute_stages: Activation checkpointing: keep only the inputs of the backbone's stages for the backward
            pass and run them again there. Less memory for about a third more time; same result.
        frozen: Parts of ``backbone``, ``neck`` and ``head`` that are not trained; they stay in eval mode.
        pretrained: Checkpoint to start from.
        train_cfg: Must be empty: mixing images would mix their classes and views.
        data_preprocessor: Defaults to :class:`mmcds.preprocessor.CDSDataPreprocessor`.
        init_cfg: Weight initialisation.

    Raises:
        ConfigError: If supervisions, teacher, taps, views, head and preprocessor do not fit together.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        head: dict | None = None,
        supervisions: dict[str, dict | None] | None = None,
        teacher: dict | None = None,
        taps: Sequence[Tap] = (),
        ce_views: Sequence[int] = (0,),
        channels_last: bool = False,
        recompute_stages: bool = False,
        frozen: Sequence[str] = (),
        pretrained: str | None = None,
        train_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if train_cfg:
            raise ConfigError(
                f'CDSClassifier: train_cfg is {dict(train_cfg)}; mixing images of a batch would '
                'mix the classes and views that the losses compare. Remove it.'
            )
        if head is None:
            raise ConfigError(
                'CDSClassifier: head is None, but training needs its cross-entropy. Set a '
                "classification head, such as dict(type='LinearClsHead', ...)."
            )
        if not ce_views or min(ce_views) < 0:
            raise ConfigError(f'CDSClassifier: ce_views is {tuple(ce_views)}; name at least one view, counted from 0.')
        for part in frozen:
            if part not in PARTS:
                raise ConfigError(f'CDSClassifier: frozen names {part!r}; choose among {", ".join(PARTS)}.')
        for name in supervisions or {}:
            if not name.isidentifier() or 'loss' in name:
                raise ConfigError(
                    f'CDSClassifier: supervision name {name!r} prefixes log and checkpoint keys; '
                    "use letters, digits and underscores, without 'loss'."
                )
        built = {name: MODELS.build(config) for name, config in (supervisions or {}).items() if config}
        for name, supervision in built.items():
            supervision.name = name
        taps = (*taps, *(tap for supervision in built.values() for tap in supervision.taps))
        if not isinstance(data_preprocessor, nn.Module):
            data_preprocessor = {'type': 'CDSDataPreprocessor', **(data_preprocessor or {})}
        super().__init__(
            backbone=build_backbone(backbone, taps),
            neck=neck,
            head=head,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        num_classes = getattr(self.head, 'num_classes', None)
        expected = getattr(self.data_preprocessor, 'num_classes', None)
        if expected is not None and num_classes is not None and expected != num_classes:
            raise ConfigError(
                f'CDSClassifier: head.num_classes is {num_classes} but '
                f'data_preprocessor.num_classes is {expected}. Set both to the number of classes '
                'of the data set.'
            )
        self.ce_views = tuple(ce_views)
        self.min_views = max([supervision.min_views for supervision in built.values()] + [max(ce_views) + 1])
        self.recompute_stages = bool(recompute_stages and stages_of(self.backbone))
        self._tapped = TappedBackbone(self.backbone, taps)
        self.teacher = self._build_teacher(teacher, built)
        self.supervisions = ModuleDict(built)
        with torch.random.fork_rng(devices=[]):  # so a method starts from the weights of its plain twin
            if built:
                self._bind()
        self.frozen = tuple(frozen)
        for part in self.frozen:
            self.get_submodule(part).requires_grad_(False)
        self.channels_last = channels_last and not any(
            isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and min(layer.weight.shape[:2]) < 16
            for layer in self.modules()
        )
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def _build_teacher(self, config: dict | None, supervisions: dict[str, Supervision]) -> Teacher | None:
        """Compare what the supervisions need with what there is."""
        for name, supervision in supervisions.items():
            for other in supervision.embeddings_of:
                if other not in supervisions:
                    raise ConfigError(
                        f'CDSClassifier: supervision {name!r} reads the embeddings of {other!r}, but '
                        f'the supervisions are {sorted(supervisions)}. Name one of them.'
                    )
        users = [name for name, supervision in supervisions.items() if supervision.needs_teacher]
        if users and config is None:
            raise ConfigError(
                f'CDSClassifier: supervision {users[0]!r} needs a teacher. Set model.teacher='
                'dict(config=..., checkpoint=...), or remove the supervision by setting it to None.'
            )
        if config is None:
            return None
        if not users:
            raise ConfigError(
                'CDSClassifier: there is a teacher, but no supervision listens to it. Add one, such '
                "as dict(type='LogitDistillation'), or remove the teacher."
            )
        return Teacher(
            **config,
            taps=[tap for name in users for tap in supervisions[name].teacher_taps],
            embeddings_of=[other for name in users for other in supervisions[name].teacher_embeddings_of],
        )

    def measure(self) -> NetworkInfo:
        """Widths, strides and number of classes, without running the network."""
        network = self._tapped.probe(self.backbone, getattr(self.head, 'num_classes', None))
        return replace(network, embeddings=self._embedding_channels())

    def _embedding_channels(self) -> dict[str, Mapping[Tap, int]]:
        return {name: supervision.embedding_channels for name, supervision in self.supervisions.items()}

    def _bind(self) -> None:
        """Let the supervisions create their parameters, those first whose embeddings others read."""
        network = replace(self.measure(), teacher=None if self.teacher is None else self.teacher.measure())
        for reads in (False, True):
            network = replace(network, embeddings=self._embedding_channels())
            for supervision in self.supervisions.values():
                if bool(supervision.embeddings_of) == reads:
                    supervision.bind(network)

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
        """Host's method; after the backbone only its last output goes on, as in the plain classifier."""
        if stage == 'backbone':
            return super().extract_feat(self._layout(inputs), stage)
        feats = self._pool(self.backbone(self._layout(inputs))[-1])
        return feats if stage == 'neck' else self.head.pre_logits(feats)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Compute all losses of one step.

        Args:
            inputs: Views (V, N, 3, H, W), or (N, 3, H, W) for a single view.
            data_samples: One per image; label -1 means unlabelled.

        Returns:
            ``loss_ce``, then ``<supervision>.<name>`` for every value of every supervision.

        Raises:
            ConfigError: If fewer views arrive than a supervision or ``ce_views`` needs.
        """
        trace = self.trace(inputs, data_samples)
        losses = self._cross_entropy(trace)
        for name, supervision in self.supervisions.items():
            losses.update({f'{name}.{key}': value for key, value in supervision(trace).items()})
        return losses

    def trace(self, inputs: Tensor, data_samples: list[DataSample]) -> Trace:
        """Run the backbone, and the teacher, once on all views; see :meth:`loss` for the arguments."""
        views = inputs if inputs.ndim == 5 else inputs[None]
        if len(views) < self.min_views:
            raise ConfigError(
                f'CDSClassifier: the pipeline delivers {len(views)} view(s) per image, but {self.min_views} are '
                'needed by the supervisions and ce_views. Give MultiViewTransform that many views.'
            )
        indices = [sample.get('sample_idx') for sample in data_samples]
        sample_idx = None if None in indices else torch.tensor(indices, device=inputs.device)
        for name, supervision in self.supervisions.items():
            if supervision.needs_sample_idx and sample_idx is None:
                raise ConfigError(
                    f'CDSClassifier: supervision {name!r} needs sample_idx, but the pipeline did '
                    'not pack it. Keep sample_idx in PackInputs.meta_keys.'
                )
        labels = torch.cat([sample.gt_label for sample in data_samples]).to(inputs.device)
        trace = self.run(views, labels, sample_idx)
        if self.teacher is None:
            return trace
        return replace(trace, teacher=self.teacher(views, labels, sample_idx, student=self))

    def run(self, views: Tensor, labels: Tensor, sample_idx: Tensor | None) -> Trace:
        """Pass the views (V, N, 3, H, W) through the network and let every supervision embed; no teacher."""
        with recompute_stages(self.backbone) if self.recompute_stages else nullcontext():
            last, features = self._tapped(self.backbone, self._layout(views.flatten(0, 1)))
        feats = self._pool(last)
        trace = Trace(
            num_views=len(views),
            features=features,
            pooled=feats[-1],
            logits=self.head(feats),
            labels=labels,
            sample_idx=sample_idx,
            progress=run_progress(),
        )
        return replace(
            trace, embeddings={name: supervision.embed(trace) for name, supervision in self.supervisions.items()}
        )

    def _cross_entropy(self, trace: Trace) -> dict[str, Tensor]:
        """Cross-entropy of the labelled rows of ``ce_views``; 0 with zero gradient if there are none."""
        logits = trace.per_view(trace.logits)[list(self.ce_views)].flatten(0, 1)
        labels = trace.labels.repeat(len(self.ce_views))
        labelled = labels >= 0
        weight = labelled.to(torch.promote_types(logits.dtype, torch.float32))
        losses = {
            'loss_ce': self.head.loss_module(
                logits, labels.clamp(min=0), weight=weight, avg_factor=weight.sum().clamp(min=1)
            )
        }
        if getattr(self.head, 'cal_acc', False) and labelled.any():
            found = Accuracy.calculate(logits.detach()[labelled], labels[labelled], topk=self.head.topk)
            losses.update({f'accuracy_top-{k}': value for k, value in zip(self.head.topk, found, strict=True)})
        return losses

    def _layout(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _pool(self, last: Tensor) -> tuple[Tensor, ...]:
        return self.neck((last,)) if self.with_neck else (last,)
