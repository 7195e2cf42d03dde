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

    A gap goes from the accuracy of a bin to its mean confidence; its colour says on which side of each other they are.

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
    figure = Figure(figsize=(4.2, 5.8), layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = 100 / bins
    left = width * np.arange(bins)
    bar = dict(width=width, align='edge', linewidth=0.6)
    above.bar(left, accuracy, **bar, color='lightsteelblue', edgecolor='black', label='accuracy in a bin')
    gap = dict(bar, bottom=accuracy, alpha=0.4)
    for where, colours, hatch, label in (
        (mean > accuracy, ('tab:red', 'darkred'), '////', 'gap, over-confident: confidence above accuracy'),
        (mean < accuracy, ('tab:purple', 'indigo'), '....', 'gap, under-confident: confidence below accuracy'),
    ):
        height = np.where(where, mean - accuracy, np.nan)
        above.bar(left, height, **gap, color=colours[0], edgecolor=colours[1], hatch=hatch, label=label)
    above.plot([0, 100], [0, 100], '--', color='black', linewidth=1, label='perfect calibration: no gap')
    above.set(xlim=(0, 100), ylim=(0, 100), ylabel='accuracy (%)')
    above.set_title(f'ECE (mean gap) {error:.2f} %, {len(confidence):,} images', fontsize='small')
    below.bar(
        left, count / len(confidence), **bar, color='lightgrey', edgecolor='black', label='share of images in a bin'
    )
    below.axvline(right, color='tab:blue', linewidth=1.5, label=f'accuracy of all images: {right:.2f} %')
    below.axvline(sure, color='darkred', linestyle='--', linewidth=1.5, label=f'mean confidence: {sure:.2f} %')
    below.set(xlabel='confidence (%)', ylabel='images (%)')
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(plain(title), fontsize='medium')
    handles = [handle for axes in (above, below) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc='outside lower center', fontsize='x-small')  # beside the bars, never on them
    figure.savefig(out, dpi=200)
    return Path(out)
