"""Calibration errors and negative log-likelihood of class probabilities, and the metric that reports them."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import METRICS
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError

#: Columns of a table, by key of :func:`calibration`: title, factor, digits.
COLUMNS = {
    'ece': ('ECE (%)', 100, 2),
    'adaptive_ece': ('adaptive ECE (%)', 100, 2),
    'classwise_ece': ('class-wise ECE (%)', 100, 3),
    'nll': ('NLL (nats)', 1, 3),
}
#: How far the scores of an image may be from a sum of 1: half precision passes, logits do not.
TOLERANCE = 1e-2


def check_bins(bins: int) -> None:
    """Check that ``bins`` is a positive integer and torchmetrics is installed.

    Raises:
        ConfigError: If ``bins`` is no integer >= 1, or if torchmetrics is not installed.
    """
    if not isinstance(bins, int) or isinstance(bins, bool) or bins < 1:
        raise ConfigError(f'bins is {bins!r}, but calibration needs at least 1 bin. Use an integer such as 15.')
    try:
        import torchmetrics  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError("calibration needs torchmetrics: pip install 'torchmetrics>=1.4'.") from error


def check_predictions(scores: Tensor, labels: Tensor) -> None:
    """Check that scores are probabilities and each image has one label.

    Args:
        scores: Predicted probability of every class. (N, K).
        labels: Class of every image. (N,).

    Raises:
        ConfigError: If there is no image, if a row is no distribution, or if a label is no class.
    """
    if scores.ndim != 2 or not len(scores) or scores.shape[1] < 2 or labels.shape != scores.shape[:1]:
        raise ConfigError(
            f'calibration needs scores (images, classes >= 2) and one label per image, got {tuple(scores.shape)} and '
            f'{tuple(labels.shape)}. Evaluate a classifier on a data set with one label per image.'
        )
    lowest, total = scores.min().item(), scores.sum(1, dtype=torch.float64)
    if not (lowest >= 0 and (total - 1).abs().max().item() <= TOLERANCE):
        raise ConfigError(
            f'the scores are no probabilities: the lowest is {lowest:g}, and those of an image sum to '
            f'{total.min():g} to {total.max():g}. Use a head that predicts a softmax over the classes.'
        )
    if labels.is_floating_point() or not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ConfigError(
            f'labels go from {labels.min().item()} to {labels.max().item()}, but there are {scores.shape[1]} classes '
            'and calibration needs a label of every image. Evaluate on a labelled set of these classes.'
        )


def top_class(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of the predicted class, and whether it is the right one; both (N,)."""
    confidence, predicted = scores.max(1)
    return confidence, predicted == labels


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    r"""Compute the expected calibration error over bins of equal width.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{N} \bigl|\mathrm{acc}(b) - \mathrm{conf}(b)\bigr|

    Args:
        confidence: Probability of the prediction, in [0, 1]. (N,).
        correct: Whether it came true. (N,).
        bins: How many; bin b holds [b / bins, (b + 1) / bins), the last one 1 as well.

    Returns:
        Scalar in [0, 1], a fraction.

    References:
        https://arxiv.org/abs/1706.04599, Eq. 3. torchmetrics computes it; its confidence of exactly 1 would have a
        bin of its own, here it is in the last one.
    """
    from torchmetrics.functional.classification import binary_calibration_error

    below_one = confidence.clamp(max=1 - torch.finfo(confidence.dtype).eps)
    return binary_calibration_error(below_one, correct.long(), n_bins=bins, validate_args=False)


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """Compute the error over bins that hold equally many images (one more in the first ones if it does not divide).

    Images of equal confidence count with their common accuracy, so the order of the images plays no part.

    Args:
        confidence: Probability of the prediction, in [0, 1]. (N,).
        correct: Whether it came true. (N,).
        bins: How many.

    Returns:
        Scalar in [0, 1], a fraction.

    References:
        https://arxiv.org/abs/1904.01685, Section 3, of the predicted class alone;
        https://arxiv.org/abs/1508.05154 for the bins.
    """
    levels, level, counts = confidence.unique(return_inverse=True, return_counts=True)
    accuracy = torch.zeros_like(levels).index_add_(0, level, correct.to(levels.dtype)) / counts
    gaps = (accuracy[level] - confidence)[confidence.argsort()]
    return torch.stack([part.sum().abs() for part in gaps.tensor_split(bins)]).sum() / len(gaps)


def classwise_calibration_error(scores: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    r"""Compute the static calibration error: the mean over classes of the error of each class's probability.

    .. math::
        \mathrm{SCE} = \frac{1}{K} \sum_k \sum_b \frac{n_{bk}}{N} \bigl|\mathrm{acc}(b, k) - \mathrm{conf}(b, k)\bigr|

    where ``acc(b, k)`` is the share of class k among the images whose probability of k lies in bin b.

    Args:
        scores: Predicted probability of every class. (N, K).
        labels: Class of every image. (N,).
        bins: How many, of equal width.

    Returns:
        Scalar in [0, 1], a fraction; of the order of 1 / K, since most probabilities are near 0.

    References:
        https://arxiv.org/abs/1904.01685, Section 3.
    """
    of_class = [expected_calibration_error(scores[:, k], labels == k, bins) for k in range(scores.shape[1])]
    return torch.stack(of_class).mean()


def log_scores(scores: Tensor) -> Tensor:
    """Return log-probabilities, clamped at the smallest normal float32. (N, K), float64."""
    return scores.double().clamp(min=torch.finfo(torch.float32).tiny).log()


def negative_log_likelihood(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of -log(probability of the right class), in nats: at most 87.3, what float32 can hold.

    Args:
        scores: Predicted probability of every class. (N, K).
        labels: Class of every image. (N,).

    Returns:
        Scalar, float64.
    """
    return F.nll_loss(log_scores(scores), labels)


def calibration(scores: Tensor, labels: Tensor, bins: int = 15) -> dict[str, float]:
    """Compute all of the above, in double precision.

    Args:
        scores: Predicted probability of every class. (N, K).
        labels: Class of every image. (N,).
        bins: How many bins.

    Returns:
        ``ece``, ``adaptive_ece``, ``classwise_ece`` (fractions) and ``nll`` (nats).

    Raises:
        ConfigError: See :func:`check_bins` and :func:`check_predictions`.
    """
    check_bins(bins)
    check_predictions(scores, labels)
    scores = scores.double()
    confidence, correct = top_class(scores, labels)
    found = dict(
        ece=expected_calibration_error(confidence, correct, bins),
        adaptive_ece=adaptive_calibration_error(confidence, correct, bins),
        classwise_ece=classwise_calibration_error(scores, labels, bins),
        nll=negative_log_likelihood(scores, labels),
    )
    return {key: value.item() for key, value in found.items()}


@METRICS.register_module()
class CalibrationError(BaseMetric):
    """Registered form of :func:`calibration`: ``calibration/ece``, ``/adaptive_ece``, ``/classwise_ece``, ``/nll``.

    Several processes give what one gives: their predictions are collected, and images that a sampler showed twice to
    fill a batch are dropped.

    Args:
        bins: How many bins.
        other: As of every metric of MMEngine: ``collect_device``, ``prefix``, ``collect_dir``.

    Raises:
        ConfigError: If ``bins`` is no integer >= 1, if torchmetrics is missing, or, with the first batch that has
            them, if scores are no probabilities or labels are missing.
    """

    default_prefix = 'calibration'

    def __init__(self, bins: int = 15, **other) -> None:
        super().__init__(**other)
        check_bins(bins)
        self.bins = bins

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Keep scores (K,) and label of every image; checked here, so that every rank stops together."""
        scores, labels = stack_predictions(data_samples)
        check_predictions(scores, labels)
        # Copies: a row of a batch would take the whole batch along to the other ranks.
        self.results.extend((row.clone(), label.clone()) for row, label in zip(scores, labels, strict=True))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute all errors of all images."""
        scores, labels = zip(*results, strict=True)
        return calibration(torch.stack(scores), torch.stack(labels), self.bins)


def stack_predictions(data_samples: Sequence[dict]) -> tuple[Tensor, Tensor]:
    """Return the scores (N, K) and labels (N,) of MMPretrain's predictions, on the CPU.

    Raises:
        ConfigError: If a prediction has no scores, or its image not exactly one label.
    """
    for key, what in (('pred_score', 'scores'), ('gt_label', 'label')):
        if any(key not in sample for sample in data_samples):
            raise ConfigError(
                f'calibration: a prediction has no {what} ({key}). Evaluate a classifier on a labelled data set.'
            )
    labels = [sample['gt_label'] for sample in data_samples]
    if any(label.numel() != 1 for label in labels):
        raise ConfigError('calibration: an image has several labels (gt_label). Use a data set with one per image.')
    return torch.stack([sample['pred_score'] for sample in data_samples]).cpu(), torch.cat(labels).cpu()
