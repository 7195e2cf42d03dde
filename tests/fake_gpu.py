"""A GPU that computes nothing: its tensors have shapes and types, and what the host would wait for is counted.

Tensors on the CPU are real, those on the GPU are fake. The backward pass needs a real one; it holds no operation that
waits.
"""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: Operations that launch nothing, beside views.
STORAGE = {'detach', 'alias', 'empty', 'empty_like', 'new_empty', 'empty_strided', '_unsafe_view', 'lift_fresh'}
ROOT = str(Path(__file__).resolve().parents[1])


def move_to_gpu(model: nn.Module) -> None:
    """Replace parameters and buffers by fake ones; also of networks that are no submodules, such as a teacher."""
    for module in model.modules():
        for value in vars(module).values():
            hidden = getattr(value, '_network', value)
            if isinstance(hidden, nn.Module) and value not in module._modules.values():
                move_to_gpu(hidden)
        for name, value in module._parameters.items():
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype, device='cuda')
                module._parameters[name] = nn.Parameter(empty, requires_grad=value.requires_grad)
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device='cuda')
        if hasattr(module, '_device'):
            module._device = torch.device('cuda')


class Waits(TorchDispatchMode):
    """Counts operations for which the host waits, by kind and place, and kernels.

    To be entered within a ``FakeTensorMode``. What waits gets an answer that is made up: a number 1, rows 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter = Counter()
        self.kernels: Counter = Counter()

    def _waits(self, kind: str) -> None:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(f'{ROOT}/mmcds')]
        place = f'{frames[-1].filename.removeprefix(f"{ROOT}/")}:{frames[-1].lineno}' if frames else 'elsewhere'
        self.found[f'{kind} in {place}'] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        made_there = torch.device(kwargs.get('device') or 'cpu').type == 'cuda'
        if not made_there and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        first = tensors[0] if tensors else None
        if name == '_local_scalar_dense':
            if first.is_cuda:
                self._waits('item')
            return True if first.dtype == torch.bool else 1.0 if first.is_floating_point() else 1
        if name == 'equal':
            self._waits(name)
            return True
        if name == 'nonzero':
            self._waits(name)
            return torch.zeros(len(first), first.ndim, dtype=torch.int64, device='cuda')
        if name in ('_unique2', 'unique_dim', 'unique_consecutive', 'masked_select', 'bincount'):
            self._waits(name)
        if name == 'index' and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self._waits('mask')
        result = function(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if name in ('_to_copy', 'copy_'):
            source, target = (args[1], args[0]) if name == 'copy_' else (args[0], result)
            free = kwargs.get('non_blocking') or (name == 'copy_' and len(args) > 2 and args[2])
            if source.device.type != target.device.type and (target.is_cpu or not free):
                self._waits(f'copy {source.device.type} to {target.device.type}')
        if any(tensor.is_cuda for tensor in results) and not function.is_view and name not in STORAGE:
            self.kernels[name] += 1
        return result


def step_on_gpu(model: nn.Module, data: dict) -> Waits:
    """Run preprocessing and losses of a training step twice on a fake GPU; return what the second one waits for."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        move_to_gpu(model)
        for _ in range(2):
            with Waits() as counted:
                batch = model.data_preprocessor(data, True)
                model.parse_losses(model(**batch, mode='loss'))
    return counted
