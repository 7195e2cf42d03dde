"""Contrastive deep supervision itself: Equations 4 and 5, between the backbone's stages and the total loss."""

import copy

from mmpretrain.registry import MODELS
from torch import Tensor

from mmcds.errors import ConfigError
from mmcds.losses import contrast_metrics, gather_embeddings
from mmcds.supervisions.base import Supervision
from mmcds.taps import NetworkInfo, Tap, tap_name
from mmcds.trace import Trace


@MODELS.register_module()
class ContrastiveSupervision(Supervision):
    r"""A contrastive loss on every tapped stage.

    .. math:: \lambda_1 \sum_{s} L_{contra}\bigl(c_s(x_s)\bigr) \qquad \text{(Eq. 5, second term)}

    Args:
        neck: Config of :class:`mmcds.necks.CDSNeck` with ``taps``; widths and strides are filled in.
        loss: Config of :class:`mmcds.losses.SupConLoss` or :class:`mmcds.losses.NTXentLoss`; its
            ``loss_weight`` is lambda_1.
        gather: Contrast with the images of all ranks instead of this rank's own. R ranks then train exactly
            like one process with the whole batch. The released code does not gather.

    Raises:
        ConfigError: If ``neck`` names no taps, or if ``loss_weight`` is not positive.
    """

    min_views = 2

    def __init__(self, neck: dict, loss: dict, gather: bool = False) -> None:
        super().__init__()
        self.taps = tuple(neck.get('taps', ()))
        if not self.taps:
            raise ConfigError(
                'ContrastiveSupervision: neck.taps is empty, so nothing is supervised. Name at '
                'least one stage, such as taps=(0, 1, 2).'
            )
        self.loss = MODELS.build(loss)
        if not self.loss.loss_weight > 0:
            raise ConfigError(
                f'ContrastiveSupervision: loss_weight is {self.loss.loss_weight}; its heads would never get a '
                'gradient. Give it a positive weight, or remove the supervision by setting it to None.'
            )
        self.gather = gather
        self._neck_config = copy.deepcopy(neck)

    def bind(self, network: NetworkInfo) -> None:
        """Build the projection heads for the measured widths and strides."""
        infos = [network.taps[tap] for tap in self.taps]
        self.neck = MODELS.build(
            dict(
                in_channels=tuple(info.channels for info in infos),
                strides=tuple(info.stride for info in infos),
                final_channels=network.final.channels,
                final_stride=network.final.stride,
                **self._neck_config,
            )
        )
        self.embedding_channels = dict(zip(self.taps, self.neck.out_channels, strict=True))

    def embed(self, trace: Trace) -> dict[Tap, Tensor]:
        """Project every tap to rows of unit length (V, N, D)."""
        rows = self.neck([trace.features[tap] for tap in self.taps])
        return {tap: trace.per_view(row) for tap, row in zip(self.taps, rows, strict=True)}

    def forward(self, trace: Trace) -> dict[str, Tensor]:
        """Return the weighted ``<tap>.loss_contrast`` of every tap and what :func:`contrast_metrics` watches."""
        values = {}
        for tap, embeddings in (trace.embeddings.get(self.name) or self.embed(trace)).items():
            name = tap_name(tap)
            if self.gather:
                whole = gather_embeddings(embeddings, trace.labels)
                loss = self.loss(whole.embeddings, whole.labels, local=whole.local, num_ranks=whole.num_ranks)
            else:
                loss = self.loss(embeddings, trace.labels)
            values[f'{name}.loss_contrast'] = loss
            values.update(
                {f'{name}.{key}': value for key, value in contrast_metrics(embeddings, trace.labels).items()}
            )
        if isinstance(self.loss.temperature, Tensor):
            values['temperature'] = self.loss.temperature.detach()
        return values
