"""ONE, on-the-fly native ensemble ("OKD" in the paper's tables): branches of a network teach each other."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcds.baselines.auxiliary import branch
from mmcds.core.errors import ConfigError
from mmcds.core.measure import calls_without_data
from mmcds.core.numerics import cross_entropy, exact, init_heads
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.registry import MODELS
from mmcds.core.supervision import ViewSupervision
from mmcds.core.taps import NetworkInfo


@exact
def ensemble_loss(branches: Tensor, ensemble: Tensor, temperature: float = 3.0, eps: float = 1e-7) -> Tensor:
    r"""Return the divergence of every branch from the ensemble.

    .. math:: T^2 \sum_b KL\bigl(\operatorname{softmax}(z_e / T) + \epsilon \Vert \operatorname{softmax}(z_b / T)\bigr)

    Args:
        branches: Logits of all branches. (B, N, K).
        ensemble: Logits of the ensemble, no gradient. (N, K).
        temperature: T.
        eps: As in the authors' code, which does not normalise again.

    Returns:
        Scalar, mean over images, at least float32.

    References:
        https://arxiv.org/abs/1806.04606, Eq. 7
    """
    target = (ensemble.detach() / temperature).softmax(1) + eps
    divergence = target * (target.log() - (branches / temperature).log_softmax(2))
    return temperature**2 * divergence.sum((0, 2)).mean()


def ramp_up(progress: float, share: float) -> float:
    """Return :math:`e^{-5 (1 - t)^2}` with t the part of the ramp that is done; 1 after it.

    Args:
        progress: Share of the run that is done.
        share: Length of the ramp as a share of the run; 0 means none.
    """
    return math.exp(-5 * (1 - min(progress / share, 1)) ** 2) if share else 1.0


def modules_after(backbone: nn.Module, tap: Tap) -> list[nn.Module]:
    """Return the modules that turn the output of a stage into the last output, in their order.

    They are found by running a copy without data and following the tensors from module to module.

    Raises:
        ConfigError: If something else happens on the way, or nothing at all.
    """
    # 1. Run a copy without data, and note for every module which tensor went in and which came out.
    # 2. From the stage's output on, look for the module that took this very tensor; of several, such as a block and
    #    its first layer, the outermost one. Go on with what it put out.
    # 3. The chain has to end at the last output; a sum or a function on the way would break it.
    *run, whole = calls_without_data(backbone)
    calls = [
        (call.name, call.given[0], call.output)
        for call in run
        if len(call.given) == 1 and all(isinstance(each, Tensor) for each in (*call.given, call.output))
    ]
    outputs, stages = whole.output, list(getattr(backbone, 'out_indices', ()))
    here, last, names = outputs[stages.index(tap)] if tap in stages else None, outputs[-1], []
    while here is not None and here is not last:
        found = [(name, output) for name, value, output in calls if value is here and output is not here]
        if not found:
            here = None
        else:
            name, here = min(found, key=lambda call: call[0].count('.'))
            names.append(name)
    if here is None or not names:
        raise ConfigError(
            f'ONESupervision: what {type(backbone).__name__} does after stage {tap!r} is not a chain of modules, so '
            f'it cannot be repeated. Tap a stage before the last of {tuple(stages)}.'
        )
    return [backbone.get_submodule(name) for name in names]


class Branch(nn.Module):
    """A copy of the last stage with a classifier of its own, and first weights of its own."""

    def __init__(self, stages: Sequence[nn.Module], channels: int, num_classes: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(copy.deepcopy(stage) for stage in stages))
        self.fc = nn.Linear(channels, num_classes)

    def init_weights(self) -> None:
        """Draw the first weights anew; the copied blocks hold those of the network."""
        init_heads(self, linear_std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        """Map the tapped stage (N, C, H, W) to logits (N, K)."""
        return self.fc(self.stages(features).mean((2, 3)))


@MODELS.register
class ONESupervision(ViewSupervision):
    r"""Two more copies of the last stage, a gate that mixes the logits of all three, and its mixture as the teacher.

    .. math:: \sum_{b>1} L_{CE}(z_b) + L_{CE}(z_e) + w(t) \, T^2 \sum_b KL(p_e \Vert p_b), \qquad z_e = \sum_b g_b z_b

    The network's own last stage is branch 1: it is what tests and exports see. :class:`ONEClassifier` tests the
    ensemble. The gate is Linear, BatchNorm, ReLU and softmax on the pooled map of the tapped stage; as the authors
    have it, the ReLU keeps any branch from getting less than its share when all scores are negative. The gate learns
    from the cross-entropy of the ensemble alone.

    Args:
        taps: The stage from which the branches leave, the last but one of a ResNet. The authors' code for CIFAR has
            networks of three stages; for four, dividing the last one is what their paper does on ImageNet.
        num_branches: Number of branches with the network's own.
        temperature: T.
        ramp: Share of the run over which w grows to 1: 80 of the authors' 300 epochs.
        loss_weight: Weight of the divergence beside w.
        views: Views that take part.

    Raises:
        ConfigError: If a value is out of range; when built, if the last stage cannot be repeated.

    References:
        https://arxiv.org/abs/1806.04606
    """

    def __init__(
        self,
        taps: Sequence[Tap] = (2,),
        num_branches: int = 3,
        temperature: float = 3.0,
        ramp: float = 80 / 300,
        loss_weight: float = 1.0,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(views)
        self.check_positive(temperature=temperature, loss_weight=loss_weight)
        if len(taps) != 1:
            raise ConfigError(f'ONESupervision: taps is {tuple(taps)}; name the one stage from which branches leave.')
        if num_branches < 2:
            raise ConfigError(f'ONESupervision: num_branches is {num_branches}; an ensemble needs at least 2.')
        if not 0 <= ramp <= 1:
            raise ConfigError(f'ONESupervision: ramp is {ramp}; it is a share of the run, in [0, 1].')
        self.taps, self.num_branches = tuple(taps), num_branches
        self.temperature, self.ramp, self.loss_weight = temperature, ramp, loss_weight

    def build(self, network: NetworkInfo) -> None:
        """Copy the last stage and build the gate."""
        if network.num_classes is None:
            raise ConfigError(
                'ONESupervision: the head does not say num_classes, which the branches need. Use a head with '
                'num_classes, such as LinearClsHead.'
            )
        backbone: Any = network.backbone
        (tap,) = self.taps
        if getattr(backbone, 'preactivation', False):  # its taps are activated, its stages pass on what is not
            blocks = backbone.stage_blocks[tap + 1 :] if isinstance(tap, int) else None
            stages = branch(network, tap, 'ONESupervision', blocks, widen=1)[0]
        else:
            stages = modules_after(backbone, tap)
        self.branches = nn.ModuleList(
            Branch(stages, network.final.channels, network.num_classes) for _ in range(self.num_branches - 1)
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(network.taps[tap].channels, self.num_branches),
            nn.BatchNorm1d(self.num_branches),
            nn.ReLU(inplace=True),
            nn.Softmax(1),
        )

    def classify(self, features: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of all branches (B, N, K) and of the ensemble (N, K).

        Args:
            features: Map of the tapped stage. (N, C, H, W).
            own: Logits of the network. (N, K).
        """
        branches = torch.stack([own, *(branch(features) for branch in self.branches)])
        return branches, torch.einsum('nb,bnk->nk', self.gate(features), branches)

    def classify_ensemble(self, features: Mapping[Tap, Tensor], own: Tensor) -> Tensor:
        """Return the logits of the ensemble (N, K), given the network's features and its own logits."""
        return self.classify(features[self.taps[0]], own)[1]

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return the cross-entropy of the other branches and of the ensemble, ``loss_one``, and the weight w."""
        labels = self.select_labels(outputs)
        features = self.select(outputs.features[self.taps[0]], outputs)
        branches, ensemble = self.classify(features, self.select(outputs.logits, outputs))
        weight = ramp_up(outputs.progress, self.ramp)
        values = {
            f'branch{number}.loss_ce': cross_entropy(logits, labels)
            for number, logits in enumerate(branches[1:], start=2)
        }
        values['ensemble.loss_ce'] = cross_entropy(ensemble, labels)
        values['loss_one'] = self.loss_weight * weight * ensemble_loss(branches, ensemble, self.temperature)
        hits = (ensemble.argmax(1) == labels) & (labels >= 0)
        values['ensemble.accuracy'] = 100 * hits.sum() / (labels >= 0).sum().clamp(min=1)
        values['ramp'] = ensemble.new_full((), weight)
        return values
