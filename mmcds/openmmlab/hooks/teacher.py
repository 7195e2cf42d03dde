"""Write down which teacher a student had: the teacher itself is in no checkpoint of the student."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.check import bare_model


@HOOKS.register_module()
class TeacherRecordHook(Hook):
    """Put config, file name and SHA-256 of the teacher into ``meta['teacher']`` of every checkpoint.

    Raises:
        ConfigError: If a resumed run finds another teacher than the one it started with.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record the teacher, if there is one."""
        teacher = getattr(bare_model(runner), 'teacher', None)
        if teacher is not None:
            checkpoint['meta']['teacher'] = teacher.identity

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare when a run is resumed."""
        teacher = getattr(bare_model(runner), 'teacher', None)
        before = checkpoint.get('meta', {}).get('teacher')
        if teacher is None or teacher.identity is None or before is None or not runner._resume:
            return
        if None not in (before['sha256'], teacher.identity['sha256']) and (
            before['sha256'] != teacher.identity['sha256']
        ):
            raise ConfigError(
                f'TeacherRecordHook: the run was started with the teacher {before["checkpoint"]} (SHA-256 '
                f'{before["sha256"][:16]}), but {teacher.identity["checkpoint"]} is another file '
                f'({teacher.identity["sha256"][:16]}). Set model.teacher.checkpoint to the first one.'
            )
