"""Check that loader and preprocessor agree on who computes the colours of the views."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.check import bare_model
from mmcds.views.multi_view import MultiViewTransform, pipeline_steps


@HOOKS.register_module()
class ViewColorHook(Hook):
    """Refuse a training whose views would get their colours twice, or never.

    :func:`mmcds.openmmlab.colors.place_colors` writes both ends of the decision into a config, and
    ``tools/train.py`` calls it.

    Raises:
        ConfigError: If the two ends differ.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare, before the loading processes start."""
        steps = pipeline_steps(runner.train_loop.dataloader.dataset)
        transforms = [step for step in steps if isinstance(step, MultiViewTransform)]
        given = tuple(getattr(bare_model(runner).data_preprocessor, 'view_colors', ()))
        for step in transforms:
            left = tuple(step.colors or ()) if step.color_on == 'device' else ()
            if left != given:
                raise ConfigError(
                    f'MultiViewTransform leaves the colours of {len(left)} view(s) to the batch (color_on is '
                    f'{step.color_on!r}), but data_preprocessor.view_colors describes {len(given)}, or others. Call '
                    "mmcds.openmmlab.colors.place_colors(config), as tools/train.py does, or set color_on='worker' "
                    'and leave view_colors out.'
                )
