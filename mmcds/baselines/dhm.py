"""DHM, dynamic hierarchical mimicking: the loss of DKS on side branches, with a random choice of gradients."""

from collections.abc import Mapping, Sequence

import torch

from mmcds.baselines.dks import DKSSupervision, ordered_pairs
from mmcds.core.outputs import Tap
from mmcds.core.registry import MODELS


def draw_without_gradient(pairs: int) -> frozenset[int]:
    """Choose the divergences that give no gradient in a step.

    With r uniform on [0, 1), ``floor(r * pairs)`` numbers are drawn with replacement, from the random stream of
    the CPU.

    Args:
        pairs: Number of divergences.

    References:
        A block in https://github.com/d-li14/DHM that is commented out there.
    """
    return frozenset(torch.randint(pairs, (int(torch.rand(()).item() * pairs),)).tolist())


@MODELS.register
class DHMSupervision(DKSSupervision):
    r"""Side branches that mimic each other and the network.

    .. math:: \sum_{i<K} L_{CE}\bigl(c_i(x), y\bigr) + \alpha \sum_{j} \sum_{k \ne j} T^2 \, KL(p_k \Vert p_j)

    **What is known.** The released code has the branch layouts that are the default here (the branch of the
    stage before the last is twice as wide as the network's own last stage, the shallower one has about half the
    blocks), alpha = 1, T = 1, and no more: its loss *is* that of DKS, and with equal branches both classes give
    equal losses and gradients. **What is not.** What the paper calls dynamic could not be found in the code that
    runs. A block that is commented out there detaches a random choice of the divergences in every step;
    ``stochastic=True`` does that, and whether the authors' numbers were made with it is unknown. The paper of CDS
    says nothing about its setting of DHM. On networks other than residual ones no layout exists; use
    ``trunk='sepconv'`` there.

    Args:
        taps: Stages from which a side branch leaves.
        loss_weight: alpha.
        stochastic: Detach a random choice of the divergences in every step; their value stays.
        temperature: T.
        trunk: See :class:`mmcds.baselines.auxiliary.AuxiliaryClassifiers`.
        blocks: See there.
        widen: See there.
        views: Views that the classifiers see.

    Raises:
        ConfigError: If a weight is negative, the temperature is not positive, or a name is unknown.

    References:
        https://arxiv.org/abs/2003.10739
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (1, 2),
        loss_weight: float = 1.0,
        stochastic: bool = False,
        temperature: float = 1.0,
        trunk: str = 'branch',
        blocks: Mapping[Tap, Sequence[int]] | None = None,
        widen: int = 2,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(
            taps=taps,
            loss_weight=loss_weight,
            temperature=temperature,
            trunk=trunk,
            blocks=blocks,
            widen=widen,
            views=views,
        )
        self.stochastic = stochastic

    def without_gradient(self) -> frozenset[int]:
        """Return the pairs that give no gradient in this step."""
        if not self.stochastic:
            return frozenset()
        return draw_without_gradient(len(ordered_pairs(len(self.taps) + 1, self.direction)))
