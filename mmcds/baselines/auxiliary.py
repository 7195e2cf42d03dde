"""Auxiliary classifiers on intermediate stages: what DSN, DKS and DHM have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import build_norm, init_heads
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.supervision import ViewSupervision
from mmcds.core.taps import NetworkInfo
from mmcds.heads import GlobalAvgPool, sepconv_trunk

TRUNKS = ('sepconv', 'branch', 'pool')
#: What the residual stages of MMPretrain's ResNets take from their network, where it has it.
RES_LAYER = ('block', 'style', 'avg_down', 'with_cp', 'conv_cfg')


class AuxiliaryClassifiers(nn.Module):
    """A trunk, global average pooling and a linear classifier on every tap.

    ``'sepconv'``: the trunk of :class:`mmcds.heads.CDSNeck`, so that the loss is all that differs from CDS.
    ``'branch'``: groups of the backbone's own blocks that repeat its later stages, each with stride 2, as in the
    released code of DKS and DHM. ``'pool'``: none, the classifier sits on the pooled feature itself.

    A branch from stage s has one group for every later stage, of that stage's width. Unless ``blocks`` says
    otherwise the group of the last stage has ``max(2, ceil(n / 2))`` blocks and the others ``ceil(n / 2)``, n
    being the stage's own number. The branch of the stage before the last has all n, and ``widen`` times the
    width. With ``widen=2`` and taps (1, 2) these are DHM's branches of ResNet-18, 34, 50, 101 and 152.

    Args:
        network: What the classifier measured.
        taps: Where the classifiers sit.
        owner: Who asks, for messages.
        trunk: One of the three.
        blocks: Blocks of every group by tap; a tap that is not named follows the rule.
        widen: Width of the branch of the stage before the last, in widths of the last stage.
        norm_cfg: Normalisation of the separable convolutions.

    Raises:
        ConfigError: If the trunk is unknown or cannot be built for this network.
    """

    def __init__(
        self,
        network: NetworkInfo,
        taps: Sequence[Tap],
        owner: str,
        trunk: str = 'sepconv',
        blocks: Mapping[Tap, Sequence[int]] | None = None,
        widen: int = 1,
        norm_cfg: dict = dict(type='BN'),
    ) -> None:
        super().__init__()
        if network.num_classes is None:
            raise ConfigError(
                f'{owner}: the head does not say num_classes, which the auxiliary classifiers need. Use a head '
                'with num_classes, such as LinearClsHead.'
            )
        self.heads = nn.ModuleDict()
        for tap in taps:
            layers: list[nn.Module] = []
            width = network.taps[tap].channels
            if trunk == 'sepconv':
                layers, width = sepconv_trunk(
                    width, network.taps[tap].stride, network.final.channels, network.final.stride, norm_cfg
                )
            elif trunk == 'branch':
                layers, width = branch(network, tap, owner, (blocks or {}).get(tap), widen)
            self.heads[tap_name(tap)] = nn.Sequential(
                *layers, GlobalAvgPool(), nn.Flatten(), nn.Linear(width, network.num_classes)
            )

    def init_weights(self) -> None:
        """Draw the first weights; the linear layers as MMPretrain's own classifier does."""
        init_heads(self, linear_std=0.01)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Classify every tap's map (M, C_s, H_s, W_s); each gives logits (M, K)."""
        return [head(feature) for head, feature in zip(self.heads.values(), features, strict=True)]


def branch(
    network: NetworkInfo, tap: Tap, owner: str, blocks: Sequence[int] | None, widen: int
) -> tuple[list[nn.Module], int]:
    """Repeat the stages after ``tap`` with the backbone's own blocks; see :class:`AuxiliaryClassifiers`.

    Returns:
        The groups, and the width that leaves them.

    Raises:
        ConfigError: If the backbone has no stages of residual blocks, or ``tap`` is none before its last.
    """
    backbone: Any = network.backbone
    counts = getattr(backbone, 'stage_blocks', None)
    if counts is None or not hasattr(backbone, 'make_res_layer'):
        raise ConfigError(
            f"{owner}: trunk='branch' repeats the residual stages of a ResNet, and {network.name} has none. Use "
            "trunk='sepconv'."
        )
    last = len(counts) - 1
    if not isinstance(tap, int) or not tap < last:
        raise ConfigError(
            f'{owner}: a branch leaves {network.name} after a stage before its last one, 0 to {last - 1}, but taps '
            f"names {tap!r}. Change taps, or use trunk='sepconv'."
        )
    deepest = tap == last - 1
    if blocks is None:
        blocks = [-(-count // 2) for count in counts[tap + 1 :]]
        blocks[-1] = counts[-1] if deepest else max(2, blocks[-1])
    if len(blocks) != last - tap:
        raise ConfigError(
            f'{owner}: blocks[{tap}] is {tuple(blocks)}, but {last - tap} stage(s) of {network.name} follow stage '
            f'{tap}. Give one number for each.'
        )
    layers: list[nn.Module] = []
    width = network.taps[tap].channels
    for stage, number in enumerate(blocks, tap + 1):
        wider = (network.final.channels >> (last - stage)) * (widen if deepest else 1)
        layers.append(
            backbone.make_res_layer(
                num_blocks=number,
                in_channels=width,
                out_channels=wider,
                expansion=backbone.expansion,
                stride=2,
                norm_cfg=backbone.norm_cfg,
                **{name: getattr(backbone, name) for name in RES_LAYER if hasattr(backbone, name)},
            )
        )
        width = wider
    if getattr(backbone, 'preactivation', False):
        layers += [build_norm(backbone.norm_cfg, width), nn.ReLU(inplace=True)]
    return layers, width


class AuxiliarySupervision(ViewSupervision):
    """Base class of the three: builds the classifiers, runs them, and adds their cross-entropy.

    Args:
        taps: Where the classifiers sit.
        trunk: See :class:`AuxiliaryClassifiers`.
        blocks: See there.
        widen: See there.
        views: Views that the classifiers see.

    Raises:
        ConfigError: If there are no taps or no views, or if the trunk is unknown.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        trunk: str,
        blocks: Mapping[Tap, Sequence[int]] | None = None,
        widen: int = 1,
        views: Sequence[int] = (0,),
    ) -> None:
        super().__init__(views)
        self.taps = tuple(taps)
        self.check_taps()
        self.check_choice('trunk', trunk, TRUNKS)
        self._form: dict[str, Any] = dict(trunk=trunk, blocks=blocks, widen=widen)

    def build(self, network: NetworkInfo) -> None:
        """Build the classifiers."""
        self.classifiers = AuxiliaryClassifiers(network, self.taps, type(self).__name__, **self._form)

    def classify(self, outputs: StepOutputs) -> tuple[list[Tensor], Tensor]:
        """Return the logits of every tap, each (len(views) * N, K), and the labels of these rows."""
        logits = self.classifiers([self.select(outputs.features[tap], outputs) for tap in self.taps])
        return logits, self.select_labels(outputs)

    def accuracies(self, logits: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return ``<tap>.accuracy`` of every tap on the labelled rows, in percent."""
        labelled = labels >= 0
        hits = {
            tap: (scores.detach().argmax(1) == labels) & labelled
            for tap, scores in zip(self.taps, logits, strict=True)
        }
        return {
            f'{tap_name(tap)}.accuracy': 100 * hit.sum() / labelled.sum().clamp(min=1) for tap, hit in hits.items()
        }
