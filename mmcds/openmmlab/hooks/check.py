"""Stop a run that cannot be right before its first iteration, or before it reports a number."""

import os
from collections.abc import Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import nn
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import check_architecture, check_training_state, model_state
from mmcds.openmmlab.work_dir import named_checkpoint
from mmcds.views.keyed import pipelines
from mmcds.views.loading import LoadImage, read_image
from mmcds.views.multi_view import MultiViewTransform, pipeline_steps

#: File in the folder of a training that lists the images which it could not read.
UNREADABLE = 'unreadable_images.txt'
#: Threads that read images, in all ranks of a machine together.
READERS = 32


def bare_model(runner: Runner) -> nn.Module:
    """Return the model of a runner without its distributed wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def image_files(dataset: Any) -> tuple[list[str], dict | None]:
    """Return the image files of a data set, and the file backend of the step that reads them."""
    if not hasattr(dataset, 'get_data_info'):
        return [], None
    infos = (dataset.get_data_info(index) for index in range(len(dataset)))
    files = list(dict.fromkeys(info['img_path'] for info in infos if 'img_path' in info and 'img' not in info))
    steps = (step for pipeline in pipelines(dataset) for step in getattr(pipeline, 'transforms', ()))
    return files, next((step.backend_args for step in steps if hasattr(step, 'backend_args')), None)


def _reason(path: str, settings: dict | None) -> str:
    """Return why an image cannot be read; nothing if it can."""
    return read_image(path, settings)[1]


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Compare the data sets with the model, and read all validation images once before a training begins.

    An unreadable training image is replaced by another one, up to a number (``LoadImage``); the files are listed in
    ``unreadable_images.txt`` of the work dir, and each counts once, over all epochs, loading processes and ranks.
    A validation image must not be replaced, so it is better found now than after an epoch.

    Raises:
        ConfigError: If a data set is empty or has another number of classes than the head, if the pipeline
            delivers fewer views than the supervisions need, if a batch of one image would meet BatchNorm, or if a
            validation image cannot be read.
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
        if runner._train_loop is not None:
            self._record_unreadable(runner)
            self._read_validation(runner)

    def _record_unreadable(self, runner: Runner) -> None:
        """Let all processes that load training images count the unreadable ones in one file."""
        record = Path(runner.work_dir, UNREADABLE).resolve()
        if is_main_process() and not runner._resume:
            record.unlink(missing_ok=True)
        for pipeline in pipelines(runner.train_loop.dataloader.dataset):
            for step in getattr(pipeline, 'transforms', ()):
                if isinstance(step, LoadImage):
                    step.record = record

    def _read_validation(self, runner: Runner) -> None:
        """Read the validation images, each rank its share, unless a run goes on that has done so."""
        if runner._val_loop is None or runner._resume:
            return
        files, settings = image_files(runner.val_loop.dataloader.dataset)
        ours = files[get_rank() :: get_world_size()]
        if len(files) >= 5000:
            runner.logger.info(f'Reading all {len(files):,} validation images once.')
        threads = max(1, min(READERS, os.cpu_count() or 1) // int(os.environ.get('LOCAL_WORLD_SIZE', 1)))
        with ThreadPoolExecutor(threads) as pool:
            reasons = pool.map(partial(_reason, settings=settings), ours)
            found = [(path, reason) for path, reason in zip(ours, reasons, strict=True) if reason]
        bad = sorted(pair for rank in all_gather_object(found) for pair in rank)
        if bad:
            first = ', '.join(f'{path} ({reason})' for path, reason in bad[:5])
            raise ConfigError(
                f'val_dataloader: {len(bad)} of {len(files)} images cannot be read: {first}'
                f'{", ..." if bad[5:] else ""}. Repair or remove them; the validation would stop there.'
            )

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

    A test, or a resumed training, needs every tensor of the model (a test does not need the supervisions), and a
    resumed training has no supervisions beside them. A training that starts from ``load_from`` needs the whole
    backbone; another head is allowed and logged.

    Raises:
        ConfigError: If tensors are missing or have another shape, or a training cannot go on from it.
    """

    priority = 'VERY_HIGH'  # before other hooks use what the checkpoint holds

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare before MMEngine loads."""
        wanted = bare_model(runner).state_dict()
        training = runner._train_loop is not None
        resuming = training and runner._resume
        source = runner._load_from or named_checkpoint(runner.work_dir) or 'the checkpoint'
        if not isinstance(checkpoint.get('meta', {}), Mapping):
            raise ConfigError(f'{source} is damaged: its meta is a {type(checkpoint["meta"]).__name__}. Name another.')
        if resuming:
            check_training_state(checkpoint, source)
        if not resuming:
            wanted = {key: value for key, value in wanted.items() if not key.startswith('supervisions.')}
        prefix = 'backbone.' if training and not resuming else ''
        state = model_state(checkpoint, source)
        others = [key for key in state if key.startswith('supervisions.') and key not in wanted]
        if resuming and others:
            raise ConfigError(
                f'{source} is of another method: the model has no {others[0]}. Resume with the config with which it '
                f'was trained, or start from its weights in another --work-dir: --cfg-options load_from={source}.'
            )
        check_architecture(wanted, state, source, prefix)
