"""The named scalars of a training step."""

import functools

import torch
from torch import Tensor
from torch.utils import _pytree


def is_loss(name: str) -> bool:
    """Return whether a value of this name is optimised, or only logged."""
    return 'loss' in name


class Losses(dict[str, Tensor]):
    """The named scalars of one step: losses, weighted already, and what is watched beside them."""

    @property
    def total(self) -> Tensor:
        """Return the sum of the losses, to call ``backward()`` on."""
        return functools.reduce(torch.add, (value for name, value in self.items() if is_loss(name)))


# DistributedDataParallel with a static graph looks for tensors in what a module returns: in a dict, but in no other
# class that is not registered.
_pytree.register_pytree_node(
    Losses,
    lambda losses: (list(losses.values()), list(losses)),
    lambda values, names: Losses(zip(names, values, strict=True)),
)
