"""Checkpoints that no kill and no full disk can take away, and validations that are made up after one."""

import re
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.openmmlab.checkpoint import not_finite
from mmcds.openmmlab.hooks.check import bare_model
from mmcds.openmmlab.work_dir import PARTIAL, POINTER, VALIDATED, named_checkpoint, put_in_place, step_of, write_whole


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, whose options it has, in an order in which nothing can get lost.

    1. A checkpoint is written beside its place, brought to the disk and renamed; then ``last_checkpoint`` is; only
       then the oldest one is removed. The same holds for the best one.
    2. Only files in the folder of the run are removed, whatever a resumed checkpoint says of the run that it is from.
    3. A step whose validation has ended is written down. A resumed run that finds its last validation missing makes it
       up first, so its record, its best checkpoint and its report are those of a run that was never stopped.
    4. Weights that are not finite are not saved: the checkpoint before is the last good one.

    Raises:
        ConfigError: If a file cannot be written.
        DivergedError: If weights are not finite.
    """

    def before_train(self, runner: Runner) -> None:
        """Take up the best checkpoint of a resumed run, and make up the validation that it lacks."""
        super().before_train(runner)
        self._remote = '://' in str(self.out_dir)
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
            if outdated is not None:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

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
