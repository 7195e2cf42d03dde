"""Checkpoints that no kill and no full disk can take away, and validations that are made up after one."""

import inspect
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.openmmlab.checkpoint import not_finite
from mmcds.openmmlab.hooks.check import bare_model
from mmcds.openmmlab.loop import POSITION, ResumableTrainLoop
from mmcds.openmmlab.work_dir import (
    PARTIAL,
    POINTER,
    VALIDATED,
    WITHIN,
    named_checkpoint,
    put_in_place,
    step_of,
    write_whole,
)

#: Key of a checkpoint within an epoch: the statistics of every rank.
STATISTICS = 'statistics_of_ranks'


def _statistics_of_ranks(model: nn.Module) -> list[dict[str, Tensor]]:
    """Return the running statistics of all ranks, by name; nothing if there is one rank."""
    if get_world_size() == 1:
        return []
    own = {
        f'{name}.{key}': value.cpu()
        for name, module in model.named_modules()
        if isinstance(module, _NormBase)
        for key, value in module.named_buffers(recurse=False)
    }
    return all_gather_object(own)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, whose options it has, in an order in which nothing can get lost.

    1. A checkpoint is written beside its place, brought to the disk and renamed; then ``last_checkpoint`` is; only
       then the oldest one is removed. The same holds for the best one.
    2. Only files in the folder of the run are removed, whatever a resumed checkpoint says of the run that it is from.
    3. A step whose validation has ended is written down. A resumed run that finds its last validation missing makes it
       up first, so its record, its best checkpoint and its report are those of a run that was never stopped.
    4. Weights that are not finite are not saved: the checkpoint before is the last good one.
    5. Within an epoch, :class:`mmcds.openmmlab.hooks.StopHook` asks for a checkpoint when it is time, and before it
       ends the training; the next checkpoint takes its place.

    Args:
        minutes: How long a training by epochs may go without a checkpoint; None waits for the end of the epoch.
        *args: Arguments of MMEngine's hook.
        **kwargs: The same.

    Raises:
        ConfigError: If a file cannot be written, or ``minutes`` is not positive.
        DivergedError: If weights are not finite.
    """

    def __init__(self, *args: Any, minutes: float | None = 15, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        unknown = set(self.args) - set(inspect.signature(Runner.save_checkpoint).parameters)
        if unknown:
            raise ConfigError(f'default_hooks.checkpoint: SafeCheckpointHook has no keyword {sorted(unknown)[0]!r}.')
        if not isinstance(self.interval, int) or self.interval < -1 or not self.interval:
            raise ConfigError(
                f'default_hooks.checkpoint.interval is {self.interval!r}. Set it to a whole number from 1 '
                'on, or to -1 for no checkpoint but the last.'
            )
        if minutes is not None and not minutes > 0:
            raise ConfigError(f'default_hooks.checkpoint.minutes is {minutes}; give a positive number, or None.')
        self.minutes = minutes
        self._saved_at, self._saved_iter = time.monotonic(), 0
        self._within: str | None = None
        self._statistics: list[dict[str, Tensor]] = []

    @property
    def due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes

    def save_within_epoch(self, runner: Runner) -> None:
        """Save what a training by epochs has reached before its next step, if a step was made since the last time.

        All ranks call it before the same step, and between two updates of the weights.
        """
        loop = runner.train_loop
        if not isinstance(loop, ResumableTrainLoop) or loop.iter == self._saved_iter:
            return
        name, before = WITHIN.format(loop.epoch), self._within
        self._statistics = _statistics_of_ranks(bare_model(runner))
        meta = dict(epoch=loop.epoch, iter=loop.iter)
        self._write(runner, name, save_optimizer=True, save_param_scheduler=True, meta=meta, by_epoch=False)
        if is_main_process():
            write_whole(Path(runner.work_dir, POINTER), self.file_backend.join_path(self.out_dir, name))
        self._note_saved(runner)
        self._within, self._statistics = name, []
        if before != name:
            self._remove_within(before)
        runner.logger.info(f'Saved {name}: {loop.done} of {len(loop.dataloader)} steps of epoch {loop.epoch + 1}.')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the place in the epoch, and the statistics of normalisation that every rank has.

        At the end of an epoch the statistics are made equal.
        """
        super().before_save_checkpoint(runner, checkpoint)
        if isinstance(runner.train_loop, ResumableTrainLoop):
            checkpoint[POSITION] = runner.train_loop.position()
        if self._statistics:
            checkpoint[STATISTICS] = self._statistics

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Find the place in the epoch, and give this rank its own statistics, if there are as many ranks as before."""
        super().after_load_checkpoint(runner, checkpoint)
        if runner._resume and isinstance(runner._train_loop, ResumableTrainLoop) and 'meta' in checkpoint:
            runner._train_loop.take_up(checkpoint)
        found = checkpoint.get(STATISTICS, [])
        if len(found) == get_world_size():
            checkpoint['state_dict'].update(found[get_rank()])

    def _note_saved(self, runner: Runner) -> None:
        self._saved_at, self._saved_iter = time.monotonic(), runner.iter

    def _remove_within(self, name: str | None) -> None:
        """Remove a checkpoint within an epoch from the folder of this run, wherever the run was resumed from."""
        if name is not None and is_main_process():
            self._remove(self.file_backend.join_path(self.out_dir, name))

    def before_train(self, runner: Runner) -> None:
        """Take up the best checkpoint of a resumed run, and make up the validation that it lacks."""
        super().before_train(runner)
        self._note_saved(runner)
        self._remote = '://' in str(self.out_dir)
        found = [] if self._remote else Path(str(self.out_dir)).glob(WITHIN.format('*'))
        self._within = next((path.name for path in sorted(found, key=step_of, reverse=True)), None)
        if self.save_best:
            for indicator in self.key_indicators:
                self._take_up_best(runner, indicator)
        lacks = [self._lacks_validation(runner)]
        broadcast_object_list(lacks)  # the first process decides, so that all validate or none
        if lacks[0]:
            step = runner.epoch if self.by_epoch else runner.iter
            resumed = Path(str(self.out_dir), self.filename_tmpl.format(step))
            self.last_ckpt = str(resumed) if resumed.is_file() else None  # is written again if it is the best
            runner.logger.info(f'The validation of {self._step(runner)} had not ended; it is made up now.')
            runner.val_loop.run()

    def _take_up_best(self, runner: Runner, indicator: str) -> None:
        """Find the best checkpoint in the folder of this run, and remove older ones that a kill has left."""
        named = self._known_best(runner, indicator)
        if not named or self._remote:
            return
        own = Path(str(self.out_dir), Path(named).name)
        if not own.is_file():  # resumed from a run elsewhere, or deleted: the next validation is the best one here
            self._remember_best(runner, indicator, None)
            runner.message_hub.runtime_info.pop(f'best_score{self._suffix(indicator)}', None)
            return
        self._remember_best(runner, indicator, str(own))
        if is_main_process():
            for path in own.parent.glob(re.sub(r'\d+\.pth$', '*.pth', own.name)):
                if -1 < step_of(path) < step_of(own):
                    path.unlink()

    def _suffix(self, indicator: str) -> str:
        return '' if len(self.key_indicators) == 1 else f'_{indicator}'

    def _known_best(self, runner: Runner, indicator: str) -> str | None:
        """Return the place of the best checkpoint so far."""
        return runner.message_hub.runtime_info.get(f'best_ckpt{self._suffix(indicator)}')

    def _remember_best(self, runner: Runner, indicator: str, path: str | None) -> None:
        """Keep the place of the best checkpoint where MMEngine looks for it."""
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[indicator] = path
        runner.message_hub.update_info(f'best_ckpt{self._suffix(indicator)}', path)

    def _step(self, runner: Runner) -> str:
        return f'epoch {runner.epoch}' if isinstance(runner.train_loop, EpochBasedTrainLoop) else f'step {runner.iter}'

    def _lacks_validation(self, runner: Runner) -> bool:
        """Return whether a run was resumed after a step whose validation was due and has not ended."""
        loop = runner.train_loop
        if not runner._resume or runner.val_loop is None or not runner.iter:
            return False
        loop._decide_current_val_interval()
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        step, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        if step < loop.val_begin or (step % loop.val_interval and step != last):
            return False
        written = Path(runner.work_dir, VALIDATED)
        return not written.is_file() or written.read_text(errors='replace') != self._step(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint, and write down that this validation has ended."""
        super().after_val_epoch(runner, metrics)
        if runner._train_loop is not None and is_main_process():
            write_whole(Path(runner.work_dir, VALIDATED), self._step(runner))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = None
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            kept: deque = self.keep_ckpt_ids
            outdated = kept[0] if len(kept) == self.max_keep_ckpts else None
            kept.append(step)  # the oldest one leaves by itself
            runner.message_hub.update_info('keep_ckpt_ids', list(kept))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        self._note_saved(runner)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(
            runner,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            **self.args,
        )
        if is_main_process():
            write_whole(Path(runner.work_dir, POINTER), str(self.last_ckpt))
            self._remove_within(self._within)
            if outdated is not None:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))
        self._within = None

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        outdated = []
        updated = False
        for indicator, rule in zip(self.key_indicators, self.rules, strict=True):
            if indicator not in metrics:
                raise ConfigError(
                    f'default_hooks.checkpoint.save_best is {indicator!r}, which the validation does not measure. Set '
                    f'it to one of {", ".join(map(repr, metrics))}, or to None.'
                )
            key, score = f'best_score{self._suffix(indicator)}', metrics[indicator]
            best = runner.message_hub.runtime_info.get(key, self.init_value_map[rule])
            if score is None or not self.is_better_than[indicator](score, best):
                continue
            name = f'best_{indicator}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            path = self.file_backend.join_path(self.out_dir, name)
            outdated += [old for old in [self._known_best(runner, indicator)] if old and old != path]
            runner.message_hub.update_info(key, score)
            self._remember_best(runner, indicator, path)
            own = dict(meta)  # MMEngine adds to it
            self._write(runner, name, save_optimizer=False, save_param_scheduler=False, meta=own, by_epoch=False)
            runner.logger.info(f'The best checkpoint with {score:0.4f} {indicator} is saved to {name}.')
            updated = True
        if updated and self.last_ckpt is not None:  # so that a resumed run knows of it
            self._save_checkpoint_with_step(runner, step, meta)
        if is_main_process():
            for path in outdated:
                self._remove(path)

    def _write(self, runner: Runner, name: str, **options: Any) -> None:
        """Save under another name, bring that to the disk, and rename it."""
        bad = not_finite(bare_model(runner).state_dict())
        if bad:
            raise DivergedError(
                f'{len(bad)} tensors of the model are not finite after iteration {runner.iter}, such as {bad[0]}. '
                f'They are not saved; {self._last_good(runner)}. Lower the learning rate.'
            )
        saved = name if self._remote else f'{name}{PARTIAL}'
        try:
            runner.save_checkpoint(
                self.out_dir,
                saved,
                file_client_args=self.file_client_args,
                backend_args=self.backend_args,
                **options,
            )
            if not self._remote and is_main_process():
                put_in_place(Path(str(self.out_dir), saved), Path(str(self.out_dir), name))
        except OSError as error:
            if not self._remote:
                Path(str(self.out_dir), saved).unlink(missing_ok=True)
            target, reason = Path(str(self.out_dir), name), error.strerror or error
            raise ConfigError(
                f'{target} cannot be written: {reason}; {self._last_good(runner)}. Make room, and give the command '
                'again with --resume.'
            ) from error

    def _last_good(self, runner: Runner) -> str:
        """Say which checkpoint a user can go on from."""
        named = named_checkpoint(runner.work_dir)
        return f'the last checkpoint is {named}' if named else 'there is no checkpoint yet'

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
