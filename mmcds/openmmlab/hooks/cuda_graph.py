"""A training step as one CUDA graph: the host launches it once, where it would launch hundreds of kernels."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor

from mmcds.openmmlab.classifier import CDSClassifier, StepInputs
from mmcds.openmmlab.hooks.check import bare_model

Values = dict[str, Tensor]
#: What a graph leaves behind: the tensors that it writes, and what runs it.
Captured = tuple[Values, Callable[[], None]]


class VariesError(Exception):
    """Tells that a step depends on a number which changes from step to step on the host."""


def _refuse(*_: Any) -> NoReturn:
    raise VariesError('a supervision follows the progress of the run')


class _Unknown(float):
    """Stands for the progress of the run, which a graph would keep as it was; whoever uses it is told so."""

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse  # type: ignore
    __pow__ = __neg__ = __float__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse  # type: ignore


def capture(compute: Callable[[], Values]) -> Captured:
    """Record what a function launches, without running it."""
    graph = torch.cuda.CUDAGraph()
    # Loading threads pin memory meanwhile, which would end the recording in the default mode
    with torch.cuda.graph(graph, capture_error_mode='thread_local'):
        values = compute()
    return values, graph.replay


def why_not(model: Any, optim_wrapper: OptimWrapper) -> str | None:
    """Return what keeps the steps of a training from being one graph; None if nothing is known that does."""
    if not isinstance(model, CDSClassifier):
        return f'the model is a {type(model).__name__}, not a CDSClassifier'
    if model.data_preprocessor.device.type != 'cuda':
        return 'the model is on no GPU'
    if get_world_size() > 1:
        return f'{get_world_size()} processes average their gradients within the step'
    if model.mixing is not None:
        return 'the images are mixed by numbers that the host draws at every step'
    if model.recompute_stages:
        return 'stages that are run again read the random state from the GPU'
    if isinstance(optim_wrapper, AmpOptimWrapper):
        return f'the loss scale of {type(optim_wrapper).__name__} is read at every step (bfloat16 needs none)'
    if getattr(optim_wrapper, '_accumulative_counts', 1) != 1:
        return 'gradients are accumulated over several steps'
    return None


# A step, once the graph is there:
#   1. The batch is prepared as always, and copied to where the graph reads it.
#   2. The graph runs: forward pass, losses, backward pass. It writes every gradient to the memory in which it was when
#      the graph was recorded, so the parameters are given these tensors again.
#   3. The optimiser runs as always (one kernel if it is fused): learning rates are numbers of the host.
# Steps that look different (watched by the log, a last batch of another size) are launched kernel by kernel.
class GraphedStep:
    """Stands for ``model.train_step``.

    Args:
        model: The model, whose gradients are None between steps.
        warmup: Steps before the recording, in which the libraries choose their algorithms.
        warn: Called with one line if the recording fails.
    """

    def __init__(self, model: CDSClassifier, warmup: int, warn: Callable[[str], None]) -> None:
        self.model, self.left, self.warn = model, warmup, warn
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.batch: StepInputs | None = None
        self.replays = 0

    def __call__(self, data: Any, optim_wrapper: OptimWrapper) -> Values:
        """Do one training step and return what is logged."""
        with optim_wrapper.optim_context(self.model):
            batch = self.model.step_inputs(**self.model.data_preprocessor(data, True))
        if self.left == 0 and not batch.watched:
            self.left = -1
            self._record(batch, optim_wrapper)
        if self.batch is None or _form(batch) != _form(self.batch):
            self.left -= self.left > 0
            with optim_wrapper.optim_context(self.model):
                losses = self.model.losses_of(batch)
            total, values = self.model.parse_losses(losses)
            optim_wrapper.update_params(total)
            return values
        for kept, value in zip(self.batch[:3], batch[:3], strict=True):
            if isinstance(kept, Tensor) and isinstance(value, Tensor):
                kept.copy_(value, non_blocking=True)
        self._replay()
        self.replays += 1
        for parameter, gradient in zip(self.parameters, self._gradients, strict=True):
            parameter.grad = gradient
        optim_wrapper._inner_count += 1  # what OptimWrapper.backward does beside the backward pass
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        # The next step writes the same memory, and the log reads these later
        return dict(zip(self._values, torch.stack([*self._values.values()]).unbind(), strict=True))

    def _record(self, batch: StepInputs, optim_wrapper: OptimWrapper) -> None:
        """Record a graph for batches of the form of this one; say it if that fails."""
        kept = batch._replace(
            views=batch.views.clone(),
            labels=batch.labels.clone(),
            sample_idx=None if batch.sample_idx is None else batch.sample_idx.clone(),
            progress=_Unknown(),
        )

        def compute() -> Values:
            with optim_wrapper.optim_context(self.model):
                losses = self.model.losses_of(kept)
            total, values = self.model.parse_losses(losses)
            total.backward()
            return {name: value.detach().to(total.dtype) for name, value in values.items()}

        try:
            self._values, self._replay = capture(compute)
        except (VariesError, RuntimeError) as error:
            for parameter in self.parameters:
                parameter.grad = None
            self.warn(_line(str(error).partition('\n')[0].rstrip('.')))
            return
        self._gradients = [parameter.grad for parameter in self.parameters]
        self.batch = kept


def _form(batch: StepInputs) -> tuple:
    """Return what a batch must have in common with that of the graph."""
    tensors = [None if value is None else (value.shape, value.dtype, value.stride()) for value in batch[:3]]
    return (*tensors, batch.num_labelled, batch.watched)


def _line(reason: str) -> str:
    return f'--cuda-graph: steps are launched kernel by kernel, because {reason}.'


@HOOKS.register_module()
class CUDAGraphHook(Hook):
    """Run forward pass, losses and backward pass of a step as one CUDA graph.

    For one GPU whose host is too slow to keep it busy, as with small images. The numbers are those of the usual step.
    What supervisions do on the host is done once, when the graph is recorded. Where a graph cannot be had, one line
    says why, and the training goes on without it.

    Args:
        warmup: Steps before the graph is recorded.
    """

    priority = 'VERY_LOW'  # after torch.compile, whose code the graph is to hold

    def __init__(self, warmup: int = 5) -> None:
        self.warmup = warmup

    def before_train(self, runner: Runner) -> None:
        """Put the graphed step in the place of the model's own, or say why not."""
        model: Any = bare_model(runner)
        reason = why_not(model, runner.optim_wrapper)
        if reason:
            runner.logger.warning(_line(reason))
            return
        model.train_step = GraphedStep(model, self.warmup, runner.logger.warning)

    def after_train(self, runner: Runner) -> None:
        """Give the model its own step back."""
        vars(bare_model(runner)).pop('train_step', None)
