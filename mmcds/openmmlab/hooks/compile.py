"""Compile the parts of a model that do the arithmetic."""

import shutil
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.classifier import CDSClassifier
from mmcds.openmmlab.hooks.check import bare_model


@HOOKS.register_module()
class CompileHook(Hook):
    """Run the losses of a training step, from the views to the last term, through ``torch.compile``.

    Of models other than ``CDSClassifier``, the backbone is compiled. The names of the parameters do not change, so
    checkpoints are the same with and without this hook.

    Args:
        **options: Passed to :meth:`torch.nn.Module.compile`, such as ``mode='max-autotune'`` or ``backend``.

    Raises:
        ConfigError: If the default backend would need a C++ compiler and there is none.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def before_train(self, runner: Runner) -> None:
        """Compile in place, before the first batch."""
        model = bare_model(runner)
        on_cpu = next(model.parameters()).device.type == 'cpu'
        if on_cpu and self.options.get('backend', 'inductor') == 'inductor' and not _compiler():
            raise ConfigError(
                'CompileHook: torch.compile on a CPU needs a C++ compiler, and neither g++ nor clang++ is on the '
                'PATH. Install one (Debian: apt install g++), or train without --compile.'
            )
        torch._dynamo.reset()
        if isinstance(model, CDSClassifier):
            model.__dict__['losses_of'] = torch.compile(model.losses_of, **self.options)
        else:
            model.get_submodule('backbone').compile(**self.options)

    def after_train(self, runner: Runner) -> None:
        """Give the model its own code back."""
        vars(bare_model(runner)).pop('losses_of', None)


def _compiler() -> str | None:
    return shutil.which('g++') or shutil.which('clang++')
