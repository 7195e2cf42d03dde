"""Which images of a batch are contrasted with each other: all of them, or labelled and unlabelled ones apart."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmcds.losses import Classes, SupConLoss, number_classes


class Term(NamedTuple):
    """A set of images that are contrasted with each other.

    Attributes:
        name: Of its loss.
        images: Their numbers, (n,), or None for all.
        local: This rank's own among them, or None for all.
        classes: Their classes.
        factor: What the loss is multiplied by.
    """

    name: str
    images: Tensor | None
    local: slice | None
    classes: Classes
    factor: float

    def losses(self, loss: SupConLoss, taps: Sequence[Tensor], num_ranks: int) -> list[Tensor]:
        """Return the loss of every tap, (V, N, D) each, among the images of this set."""
        if self.images is not None:
            taps = [rows.index_select(1, self.images) for rows in taps]
        found = loss.of_taps(taps, self.classes, local=self.local, num_ranks=num_ranks, unit_rows=True)
        return found if self.factor == 1 else [self.factor * each for each in found]


def contrast_terms(
    labels: Tensor, local: slice | None, unlabelled_factor: float | None, num_labelled: int | None = None
) -> list[Term]:
    """Return the sets of images that are contrasted; classes are numbered once per step, not for every tap.

    Args:
        labels: Class of every image, -1 where it is unlabelled. (N,).
        local: This rank's own images, or None for all.
        unlabelled_factor: None for one set of all images; otherwise labelled images are one set and unlabelled ones
            another, with this factor (Eq. 6 of the paper).
        num_labelled: How many images have a label, if that is known; otherwise a GPU is waited for.
    """
    if unlabelled_factor is None:
        return [Term('loss_contrast', None, local, number_classes(labels), 1.0)]
    terms = []
    for name, chosen, factor in (
        ('loss_contrast', labels >= 0, 1.0),
        ('loss_unlabelled', labels < 0, unlabelled_factor),
    ):
        if num_labelled is None:
            images = chosen.nonzero()[:, 0]
        else:
            count = num_labelled if name == 'loss_contrast' else len(labels) - num_labelled
            images = torch.nonzero_static(chosen, size=count)[:, 0]
        own = None
        if local is not None:  # the images of a rank stay next to each other
            own = slice(int(chosen[: local.start].sum()), int(chosen[: local.stop].sum()))
        terms.append(Term(name, images, own, number_classes(labels[images]), factor))
    return terms
