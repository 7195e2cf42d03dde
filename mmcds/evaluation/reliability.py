"""Reliability diagram: accuracy over confidence, and how many images have which confidence."""

from pathlib import Path

import numpy as np
from torch import Tensor

from mmcds.evaluation.calibration import expected_calibration_error
from mmcds.evaluation.summary import plain


def reliability(confidence: Tensor, correct: Tensor, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the accuracy, mean confidence (NaN in an empty bin) and number of images of every bin of equal width.

    Args:
        confidence: Probability of the predicted class, in [0, 1]. (N,).
        correct: Whether it is the right one. (N,).
        bins: How many.

    Returns:
        Three arrays of shape (bins,), fractions and counts.
    """
    values = confidence.double().numpy()

    def total(weights: np.ndarray | None = None) -> np.ndarray:
        return np.histogram(values, bins, (0, 1), weights=weights)[0]

    count = total()
    images = np.where(count, count, np.nan)
    return total(correct.double().numpy()) / images, total(values) / images, count


def draw_reliability(confidence: Tensor, correct: Tensor, bins: int, title: str, out: str | Path) -> Path:
    """Draw accuracy and gap per bin with the diagonal, and below it the histogram of confidence.

    Args:
        confidence: Probability of the predicted class, in [0, 1]. (N,).
        correct: Whether it is the right one. (N,).
        bins: How many bins of equal width.
        title: Written above.
        out: Picture to write; the suffix sets the format.

    Returns:
        ``out``.
    """
    from matplotlib.figure import Figure

    accuracy, mean, count = (100 * part for part in reliability(confidence, correct, bins))
    error = 100 * expected_calibration_error(confidence, correct, bins).item()
    right, sure = 100 * correct.double().mean().item(), 100 * confidence.mean().item()
    figure = Figure(figsize=(3.6, 4.8), layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 100 / bins
    left = width * np.arange(bins)
    bar = dict(width=width, align='edge', linewidth=0.6)
    above.bar(left, accuracy, **bar, color='lightsteelblue', edgecolor='black', label='accuracy')
    above.bar(
        left,
        mean - accuracy,
        **bar,
        bottom=accuracy,
        color='tab:red',
        alpha=0.4,
        hatch='////',
        edgecolor='darkred',
        label='gap to confidence',
    )
    above.plot([0, 100], [0, 100], '--', color='black', linewidth=1, label='perfect calibration')
    above.set(xlim=(0, 100), ylim=(0, 100), ylabel='accuracy (%)', title=plain(title))
    above.legend(loc='upper left', fontsize='small')
    above.text(
        97,
        4,
        f'ECE {error:.2f} %\naccuracy {right:.2f} %\n{len(confidence):,} images',
        fontsize='small',
        horizontalalignment='right',
        bbox=dict(facecolor='white', alpha=0.85, edgecolor='grey', linewidth=0.6),
    )
    below.bar(left, count / len(confidence), **bar, color='lightgrey', edgecolor='black')
    below.axvline(right, color='tab:blue', linewidth=1.5, label='accuracy')
    below.axvline(sure, color='darkred', linestyle='--', linewidth=1.5, label='mean confidence')
    below.set(xlabel='confidence (%)', ylabel='images (%)')
    below.legend(loc='upper left', fontsize='small')
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.savefig(out, dpi=200)
    return Path(out)
