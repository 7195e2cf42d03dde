"""From networks and a loader to features: what every tap puts out, averaged over the map, for every image."""

from collections.abc import Iterable, Sequence

import torch
from mmpretrain.models import ImageClassifier
from torch import Tensor

from mmcds.core.taps import Tap, TappedBackbone


@torch.no_grad()
def pooled_features(
    models: Sequence[ImageClassifier], taps: Sequence[Sequence[Tap]], loader: Iterable[dict]
) -> tuple[list[dict[Tap, Tensor]], Tensor]:
    """Run several models over the same batches, each with a preprocessor of its own.

    Args:
        models: Classifiers in evaluation mode, whose backbones put out the tapped stages.
        taps: Taps of each.
        loader: Batches of one image, or of the V views of an image.

    Returns:
        For every model its features by tap, (V, N, C) float32 on the CPU with V = 1 for plain images; and the classes
        of the images, (N,).
    """
    networks = [TappedBackbone(model.backbone, wanted) for model, wanted in zip(models, taps, strict=True)]
    found: list[dict[Tap, list[Tensor]]] = [{tap: [] for tap in wanted} for wanted in taps]
    labels = []
    for batch in loader:
        for model, network, rows in zip(models, networks, found, strict=True):
            data = model.data_preprocessor(batch, training=False)
            views = data['inputs'] if data['inputs'].ndim == 5 else data['inputs'][None]
            for tap, feature in network(model.backbone, views.flatten(0, 1))[1].items():
                rows[tap].append(feature.mean((2, 3)).float().unflatten(0, views.shape[:2]).cpu())
        labels.append(torch.cat([sample.gt_label for sample in data['data_samples']]).cpu())
    return [{tap: torch.cat(parts, 1) for tap, parts in rows.items()} for rows in found], torch.cat(labels)
