"""Contrastive deep supervision itself: Equations 4 to 6, between the network's stages and the total loss."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import Supervision
from mmcds.core.taps import NetworkInfo
from mmcds.losses import contrast_metrics, gather_embeddings
from mmcds.losses.ring import check_ring, ring_losses
from mmcds.methods.terms import contrast_terms


@MODELS.register
class ContrastiveSupervision(Supervision):
    r"""A contrastive loss on every tapped stage.

    .. math:: \lambda_1 \sum_{s} L_{contra}\bigl(c_s(x_s)\bigr) \qquad \text{(Eq. 5, second term)}

    Where some images have no label there are two readings of Eq. 6, :math:`L_{CDS}(X_1, Y_1) + L_{Contra}(X_2)`. By
    default all images of a batch are contrasted with each other in one term, with weight lambda_1. With
    ``unlabelled_weight`` there are two terms over separate sets, as the equation is written: labelled images are
    compared with labelled ones only, and unlabelled ones with unlabelled ones, whose term has a weight of its own.
    The equation has no factor there, which is a weight of 1.

    Args:
        taps: Stages that are supervised, by number or module name.
        neck: Config of :class:`mmcds.heads.CDSNeck`; its taps, widths and strides are filled in.
        loss: Config of :class:`mmcds.losses.SupConLoss`, :class:`mmcds.losses.NTXentLoss` or
            :class:`mmcds.losses.SINCERELoss`; its ``loss_weight`` is lambda_1.
        gather: Contrast with the images of all ranks instead of this rank's own. R ranks then train exactly like one
            process with the whole batch; ``'ring'``: in memory that does not grow with R. The released code does not.
        unlabelled_weight: Weight of the term of the unlabelled images, or None for one term of all images. With
            ``gather``, telling the two sets apart is six synchronisations per step on a GPU.

    Raises:
        ConfigError: If there are no taps, or if a weight is not positive.
    """

    min_views = 2

    def __init__(
        self,
        taps: Sequence[Tap] = (),
        neck: Mapping = dict(type='CDSNeck'),
        loss: Mapping = dict(type='SupConLoss'),
        gather: bool | str = False,
        unlabelled_weight: float | None = None,
    ) -> None:
        super().__init__()
        self._neck, self.taps = dict(neck), tuple(taps)
        self.check_taps()
        self.loss = MODELS.build(loss)
        self.check_positive(loss_weight=self.loss.loss_weight)  # or its heads would never get a gradient
        self.gather = gather
        self.check_choice('gather', str(gather), ('False', 'True', 'ring'))
        check_ring(self.loss, unlabelled_weight) if gather == 'ring' else None
        if unlabelled_weight is not None:
            self.check_positive(unlabelled_weight=unlabelled_weight)
        self.unlabelled_weight = unlabelled_weight

    def build(self, network: NetworkInfo) -> None:
        """Build the projection heads for the measured widths and strides."""
        infos = [network.taps[tap] for tap in self.taps]
        self.neck = MODELS.build(
            dict(
                taps=self.taps,
                in_channels=tuple(info.channels for info in infos),
                strides=tuple(info.stride for info in infos),
                final_channels=network.final.channels,
                final_stride=network.final.stride,
                **self._neck,
            )
        )
        self.embedding_channels = dict(zip(self.taps, self.neck.out_channels, strict=True))

    def embed(self, outputs: StepOutputs) -> dict[Tap, Tensor]:
        """Project every tap to rows of unit length (V, N, D)."""
        rows = self.neck([outputs.features[tap] for tap in self.taps])
        return {tap: outputs.per_view(row) for tap, row in zip(self.taps, rows, strict=True)}

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return the weighted losses of every tap and, where it is watched, what :func:`contrast_metrics` says.

        ``<tap>.loss_contrast``, and with ``unlabelled_weight`` ``<tap>.loss_unlabelled``; a term without images is 0.
        """
        own = outputs.embeddings[self.name]
        if self.gather == 'ring':
            found = {'loss_contrast': ring_losses(self.loss, list(own.values()), outputs.labels)}
        else:
            found = self._by_terms(list(own.values()), outputs)
        pairs = [
            (f'{tap_name(tap)}.{name}', loss) for name in found for tap, loss in zip(own, found[name], strict=True)
        ]
        values = dict(pairs)
        for tap, embeddings in own.items() if outputs.watched else ():
            for key, value in contrast_metrics(embeddings, outputs.labels).items():
                values[f'{tap_name(tap)}.{key}'] = value
        if isinstance(self.loss.temperature, Tensor):
            values['temperature'] = self.loss.temperature.detach()
        return values

    def _by_terms(self, rows: list[Tensor], outputs: StepOutputs) -> dict[str, list[Tensor]]:
        """Return the losses of every tap, by the name of the term."""
        labels, local, ranks = outputs.labels, None, 1
        if self.gather:  # all taps side by side, so that they are sent at once
            whole = gather_embeddings(torch.cat(rows, 2), labels)
            rows = list(whole.embeddings.split([row.shape[2] for row in rows], 2))
            assert whole.labels is not None
            labels, local, ranks = whole.labels, whole.local, whole.num_ranks
        factor = self.unlabelled_weight and self.unlabelled_weight / self.loss.loss_weight
        terms = contrast_terms(labels, local, factor, None if self.gather else outputs.num_labelled)
        return {term.name: term.losses(self.loss, rows, ranks) for term in terms}
