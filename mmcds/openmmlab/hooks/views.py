"""Where the colours of the views are computed, and from which random numbers."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.check import bare_model
from mmcds.views.multi_view import MultiViewTransform, pipeline_steps
from mmcds.views.preprocessor import CDSDataPreprocessor


@HOOKS.register_module()
class ViewColorHook(Hook):
    """Leaves colour, blur and Cutout of the views to the batch, as ``color_on`` of MultiViewTransform says.

    For the time of the training it tells the transform to leave them out and
    :class:`mmcds.CDSDataPreprocessor` to do them, from random numbers that depend on the seed of the run, the
    training step, the sample and the view alone: the number of ranks and of workers has no influence, and a resumed
    run goes on with the same colours. Without this hook the loading processes compute them.

    Raises:
        ConfigError: If ``color_on='device'`` cannot be had.
    """

    def before_train(self, runner: Runner) -> None:
        """Decide, before the loading processes start."""
        preprocessor, steps = self._preprocessor(runner), self._steps(runner)
        wishes = {step.color_on for step in steps}
        able = isinstance(preprocessor, CDSDataPreprocessor) and all(step.colors == steps[0].colors for step in steps)
        if 'device' in wishes and not (able and len(wishes) == 1):
            raise ConfigError(
                "ViewColorHook: color_on is 'device', but only a CDSDataPreprocessor computes colours of a batch, and "
                "only if all images of the training set get the same ones. Use color_on='worker', or mend "
                'data_preprocessor or the pipelines.'
            )
        # On a CPU, OpenCV is faster for large images, and the batch for small ones, where each call counts.
        small = getattr(runner.train_loop.dataloader.dataset, 'batched', False)
        sooner = next(bare_model(runner).parameters()).is_cuda or small
        if able and (wishes == {'device'} or (wishes == {'auto'} and sooner and steps[0].colors is not None)):
            for step in steps:
                step.colors_here = False
            preprocessor.view_colors = steps[0].colors

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the random numbers of this step."""
        self._preprocessor(runner).stream = (runner.seed, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Leave loader and model as they were: either works alone again."""
        for step in self._steps(runner):
            step.colors_here = True
        preprocessor = self._preprocessor(runner)
        preprocessor.view_colors, preprocessor.stream = (), None

    @staticmethod
    def _steps(runner: Runner) -> list[MultiViewTransform]:
        steps = pipeline_steps(runner.train_loop.dataloader.dataset)
        return [step for step in steps if isinstance(step, MultiViewTransform)]

    @staticmethod
    def _preprocessor(runner: Runner) -> Any:
        return bare_model(runner).data_preprocessor
