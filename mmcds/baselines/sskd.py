"""SSKD, self-supervision and distillation: the student copies how the teacher recognises rotated images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import exact, unit_rows
from mmcds.core.outputs import StepOutputs, Tap
from mmcds.core.registry import MODELS
from mmcds.core.supervision import ViewSupervision
from mmcds.core.taps import NetworkInfo

#: Name under which the embeddings stand in a StepOutputs.
ROTATION = 'rotation'


@exact
def rotation_similarity(embeddings: Tensor) -> Tensor:
    """Return the cosine between every transformed image and every original one.

    Args:
        embeddings: Rows of unit length, the originals first. (V, N, D).

    Returns:
        ((V - 1) * N, N), view-major like the rows of a StepOutputs; row ``v * N + n`` belongs to column n.
    """
    return embeddings[1:].flatten(0, 1) @ embeddings[0].T


@exact
def rotation_loss(similarity: Tensor) -> Tensor:
    """Return the cross-entropy that finds the original of every transformed image; the cosines are the logits.

    Args:
        similarity: From :func:`rotation_similarity`. (R * N, N).

    Returns:
        Scalar, at least float32. It lies between ``log(1 + (N - 1) e^-2)`` and ``log(1 + (N - 1) e^2)``.

    References:
        https://arxiv.org/abs/2006.07114, Eq. 4; there without temperature too, as in the authors' code.
    """
    return F.cross_entropy(similarity, own_image(similarity))


def own_image(similarity: Tensor) -> Tensor:
    """Return the column of the original of every row. (R * N,)."""
    rows, images = similarity.shape
    return torch.arange(images, device=similarity.device).repeat(rows // images)


def select_rows(scores: Tensor, target: Tensor, ratio: float) -> Tensor:
    """Select rows from which the student learns: all that the teacher gets right, and the best of the others.

    Misclassified rows are sorted by the rank of the correct class, and rows of equal rank by how far its score lies
    behind the highest one. Neither depends on the order of the rows, so no rotation comes before another one; the
    paper and the authors' code leave the second open. Rows are marked and not listed, so that nothing waits for a GPU.

    Args:
        scores: Of the teacher. (M, K).
        target: Right column of every row, -1 where it is unknown: such a row is neither right nor wrong. (M,).
        ratio: Share of the wrong rows that are kept, rounded down.

    Returns:
        Whether a row is kept. (M,), bool.

    References:
        https://arxiv.org/abs/2006.07114, Section 3.3
    """
    known = target >= 0
    own = scores.gather(1, target.clamp(min=0)[:, None])
    rank = torch.where(known, (scores > own).sum(1), scores.shape[1])  # the unknown ones come last
    wrong = (known & (rank > 0)).sum()
    behind = (scores.amax(1, keepdim=True) - own)[:, 0].argsort()
    best = behind[rank[behind].argsort(stable=True)]
    places = torch.arange(len(best), device=best.device)
    kept = known.sum() - wrong + (ratio * wrong.double()).floor()
    return torch.empty_like(known).scatter_(0, best, places < kept)


@exact
def selected_divergence(student: Tensor, teacher: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """Return T^2 times the mean divergence of the kept rows of (M, K) logits; 0, with gradient, if there are none."""
    ours, theirs = ((logits / temperature).log_softmax(1) for logits in (student, teacher.detach()))
    rows = F.kl_div(ours, theirs, reduction='none', log_target=True).sum(1)
    return temperature**2 * (rows * kept).sum() / kept.sum().clamp(min=1)


def projection(channels: int) -> nn.Sequential:
    """Build Linear, ReLU, Linear, all as wide as the feature."""
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Linear(channels, channels))


@MODELS.register
class RotationSupervision(ViewSupervision):
    """Stage 1: a projection of the teacher's pooled feature learns to find the original of a rotated image.

    The network itself is frozen (``frozen=('backbone', 'neck', 'head')`` of the classifier); the checkpoint is then
    the teacher of :class:`SSKDSupervision`. View 0 is the original, the other views are its rotations.

    Args:
        num_views: V, with the original.

    References:
        https://arxiv.org/abs/2006.07114
    """

    def __init__(self, num_views: int = 4) -> None:
        if num_views < 2:
            raise ConfigError(f'RotationSupervision: num_views is {num_views}; it needs the original and a rotation.')
        super().__init__(range(num_views))

    def build(self, network: NetworkInfo) -> None:
        """Build the projection."""
        self.projection = projection(network.pooled_channels)
        self.embedding_channels = {ROTATION: network.pooled_channels}

    def embed(self, outputs: StepOutputs) -> dict[Tap, Tensor]:
        """Project the pooled feature of every view to rows of unit length (V, N, D)."""
        rows = unit_rows(self.projection(self.select(outputs.pooled, outputs)))
        return {ROTATION: rows.unflatten(0, (len(self.views), -1))}

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_rotation``, and the share of rotated images whose original was found, in percent."""
        similarity = rotation_similarity(outputs.embeddings[self.name][ROTATION])
        found = (similarity.argmax(1) == own_image(similarity)).float().mean()
        return {'loss_rotation': rotation_loss(similarity), 'accuracy': 100 * found}


@MODELS.register
class SSKDSupervision(RotationSupervision):
    r"""Stage 2: the student distils logits of originals and rotations, and the similarities between them.

    .. math:: \lambda_2 \, KL(p) + \lambda_3 \, KL_{rotated}(p) + \lambda_4 \, KL_{selected}(\mathcal{A})

    The cross-entropy sees originals only; its weight lambda_1 is ``head.loss.loss_weight``. The defaults of all four,
    0.1, 0.9, 2.7 and 10, are those of the authors' repository; the paper's text swaps the names of the last two, and
    its supplement has 3 and 5.

    Args:
        teacher: Name of the :class:`RotationSupervision` in the teacher's config.
        num_views: V, with the original.
        logit_weight: lambda_2.
        rotated_weight: Weight of the divergence on rotated images.
        similarity_weight: Weight of the divergence between similarities.
        temperature: Of both logit terms.
        similarity_temperature: Of the similarities.
        rotated_ratio: Share kept of the rotated images that the teacher classifies wrongly.
        similarity_ratio: Share kept of the rotated images whose original it does not find.

    Raises:
        ConfigError: If a value is out of range; when built, if the teacher has other classes.

    References:
        https://arxiv.org/abs/2006.07114
    """

    needs_teacher = True

    def __init__(
        self,
        teacher: str = 'sskd',
        num_views: int = 4,
        logit_weight: float = 0.9,
        rotated_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        rotated_ratio: float = 1.0,
        similarity_ratio: float = 0.75,
    ) -> None:
        super().__init__(num_views)
        self.check_positive(
            logit_weight=logit_weight,
            rotated_weight=rotated_weight,
            similarity_weight=similarity_weight,
            temperature=temperature,
            similarity_temperature=similarity_temperature,
        )
        for name, ratio in dict(rotated_ratio=rotated_ratio, similarity_ratio=similarity_ratio).items():
            if not 0 <= ratio <= 1:
                raise ConfigError(f'SSKDSupervision: {name} is {ratio}; it is a share, in [0, 1].')
        self.teacher_embeddings_of = (teacher,)
        self.weights = logit_weight, rotated_weight, similarity_weight
        self.temperatures = temperature, similarity_temperature
        self.ratios = rotated_ratio, similarity_ratio

    def build(self, network: NetworkInfo) -> None:
        """Build the student's projection; the teacher's may have another width."""
        assert network.teacher is not None
        if network.teacher.num_classes != network.num_classes:
            raise ConfigError(
                f'SSKDSupervision: the teacher has {network.teacher.num_classes} classes and the student '
                f'{network.num_classes}. Take a teacher that was trained on the same classes.'
            )
        super().build(network)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_logit``, ``loss_rotated`` and ``loss_similarity``."""
        assert outputs.teacher is not None
        student, teacher = (self.select(found.logits, found) for found in (outputs, outputs.teacher))
        images = len(outputs.labels)
        labels = outputs.labels.repeat(len(self.views) - 1)
        similar = [
            rotation_similarity(embeddings)
            for embeddings in (
                outputs.embeddings[self.name][ROTATION],
                outputs.teacher.embeddings[self.teacher_embeddings_of[0]][ROTATION],
            )
        ]
        rotated = select_rows(teacher[images:], labels, self.ratios[0])
        found = select_rows(similar[1], own_image(similar[1]), self.ratios[1])
        everything = torch.ones(images, dtype=torch.bool, device=student.device)
        return {
            'loss_logit': self.weights[0]
            * selected_divergence(student[:images], teacher[:images], everything, self.temperatures[0]),
            'loss_rotated': self.weights[1]
            * selected_divergence(student[images:], teacher[images:], rotated, self.temperatures[0]),
            'loss_similarity': self.weights[2] * selected_divergence(*similar, found, self.temperatures[1]),
        }
