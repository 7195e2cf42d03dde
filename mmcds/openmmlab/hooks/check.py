"""Stop a run that cannot be right before its first iteration, or before it reports a number."""

from collections.abc import Sized
from typing import cast

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import check_architecture, model_state
from mmcds.views.multi_view import MultiViewTransform, pipeline_steps


def bare_model(runner: Runner) -> nn.Module:
    """Return the model of a runner without its distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Compare the data sets with the model.

    Raises:
        ConfigError: If a data set is empty or has another number of classes than the head, if the pipeline
            delivers fewer views than the supervisions need, or if a batch of one image would meet BatchNorm.
    """

    def before_run(self, runner: Runner) -> None:
        """Check whatever this run is going to use."""
        for name in ('train', 'val', 'test'):
            loop = getattr(runner, f'_{name}_loop')
            if loop is not None and hasattr(loop, 'dataloader'):
                self._check_classes(f'{name}_dataloader', loop.dataloader, bare_model(runner))
                if name == 'train':
                    self._check_batches(loop.dataloader, bare_model(runner))
        self._compare_classes(runner)

    def _compare_classes(self, runner: Runner) -> None:
        """Refuse validation images whose classes have other names than those of the training."""
        loops = [getattr(runner, f'_{name}_loop') for name in ('train', 'val')]
        if any(loop is None or not hasattr(loop, 'dataloader') for loop in loops):
            return
        train, val = (getattr(loop.dataloader.dataset, 'metainfo', {}).get('classes') for loop in loops)
        if not train or not val or len(train) != len(val) or tuple(train) == tuple(val):
            return
        place, (ours, theirs) = next(
            (place, pair) for place, pair in enumerate(zip(train, val, strict=True)) if pair[0] != pair[1]
        )
        raise ConfigError(
            f'val_dataloader: class {place} is {theirs!r}, but {ours!r} in the training, so labels would not mean the '
            'same. Give both sets the same class folders, or the same `classes`.'
        )

    def _check_classes(self, name: str, loader: DataLoader, model: nn.Module) -> None:
        if not len(cast(Sized, loader.dataset)):
            raise ConfigError(f'{name}: the data set is empty. Check its data_root and annotation file.')
        classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
        expected = getattr(getattr(model, 'head', None), 'num_classes', None)
        if classes is not None and expected is not None and len(classes) != expected:
            raise ConfigError(
                f'{name}: the data set has {len(classes)} classes, but head.num_classes is '
                f'{expected}. Set head.num_classes and data_preprocessor.num_classes to '
                f'{len(classes)}.'
            )

    def _check_batches(self, loader: DataLoader, model: nn.Module) -> None:
        steps = pipeline_steps(loader.dataset)
        views = [len(step.views) for step in steps if isinstance(step, MultiViewTransform)] or [1]
        needed = getattr(model, 'min_views', 1)
        if views[0] < needed:
            raise ConfigError(
                f'train_dataloader: the pipeline makes {views[0]} view(s) per image, but the '
                f'supervisions and ce_views of the model need {needed}. Add MultiViewTransform '
                f'with {needed} views to the pipeline.'
            )
        size = loader.batch_size
        if size is None:  # a custom batch sampler decides
            return
        last = len(cast(Sized, loader.sampler)) % size if not loader.drop_last else 0
        if 1 not in (size, last):
            return
        what = 'batch_size is 1' if size == 1 else f'the last of {len(loader)} batches holds one image'
        normed = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
        if views[0] > 1:
            why = 'the views of a single image have nothing to be contrasted with'
        elif normed and not getattr(model.backbone, 'norm_eval', False):
            why = 'BatchNorm cannot estimate statistics from it'
        else:
            return
        raise ConfigError(f'train_dataloader: {what}; {why}. Use batch_size >= 2 and drop_last=True.')


@HOOKS.register_module()
class CheckCheckpointHook(Hook):
    """Refuse a checkpoint that does not fit, where MMEngine only warns and goes on with random weights.

    A test, or a resumed training, needs every tensor of the model (a test does not need the supervisions). A
    training that starts from ``load_from`` needs the whole backbone; another head is allowed and logged.

    Raises:
        ConfigError: If tensors are missing or have another shape.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare before MMEngine loads."""
        wanted = bare_model(runner).state_dict()
        training = runner._train_loop is not None
        resuming = training and runner._resume
        if not resuming:
            wanted = {key: value for key, value in wanted.items() if not key.startswith('supervisions.')}
        prefix = 'backbone.' if training and not resuming else ''
        source = runner._load_from or 'the checkpoint'
        state = model_state(checkpoint, source)
        if resuming and not {'optimizer', 'message_hub'} <= checkpoint.keys():
            raise ConfigError(
                f'{source} holds weights and no state of the optimiser, so a training cannot go on from it. Resume '
                f'from epoch_N.pth, or start a training from these weights: --cfg-options load_from={source}.'
            )
        check_architecture(wanted, state, source, prefix)
