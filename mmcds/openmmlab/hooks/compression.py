"""Gradients that travel between processes in half of their size."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel


@HOOKS.register_module()
class GradientCompressionHook(Hook):
    """Let processes average their gradients in bfloat16: half of what is sent, and three significant digits.

    Weights, and the sums of the optimiser, stay what they are. In a single process nothing is sent, and nothing
    changes.
    """

    def before_train(self, runner: Runner) -> None:
        """Tell the wrapper of the model, before its first step."""
        if isinstance(runner.model, DistributedDataParallel):
            runner.model.register_comm_hook(None, bf16_compress_hook)
