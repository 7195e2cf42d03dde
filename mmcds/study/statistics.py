"""Paired comparisons of arms: intervals, tests that allow for several of them, and how many seeds are needed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import mean_spread


def _distributions():
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise ConfigError("the study needs SciPy: pip install 'scipy>=1.11'.") from error
    return stats


@dataclass(frozen=True)
class Comparison:
    """The differences of an arm from another one, seed by seed.

    Attributes:
        mean: Their mean.
        spread: Their sample standard deviation.
        low: Lower end of the interval of 95 % for the mean.
        high: Its upper end.
        p: Probability of a mean at least as far from 0 if there is no difference, by a paired t-test.
        seeds: How many there are.
    """

    mean: float
    spread: float
    low: float
    high: float
    p: float
    seeds: int


def compare(ours: Mapping[int, float], others: Mapping[int, float]) -> Comparison:
    r"""Compare two arms by the seeds that both have, by Student's t with n - 1 degrees of freedom.

    .. math:: \bar d \pm t_{0.975, n - 1} \, s / \sqrt n

    Args:
        ours: Accuracy by seed.
        others: The same of the other arm.

    Raises:
        ConfigError: If there are fewer than two seeds in common.
    """
    seeds = sorted(ours.keys() & others.keys())
    if len(seeds) < 2:
        raise ConfigError(f'a comparison needs two seeds that both arms have, got {len(seeds)}. Run more of them.')
    differences = [ours[seed] - others[seed] for seed in seeds]
    mean, spread = mean_spread(differences)
    student = _distributions().t(len(seeds) - 1)
    error = spread / math.sqrt(len(seeds))
    half = student.ppf(0.975) * error
    p = 2 * student.sf(abs(mean) / error) if error else float(mean == 0)
    return Comparison(mean, spread, mean - half, mean + half, float(p), len(seeds))


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests by Holm's step-down rule, so that one false alarm among all is rare enough.

    Args:
        values: p of every test.

    Returns:
        Adjusted p, in the order given: with k tests left, the smallest is multiplied by k, and none may be below one
        that was smaller before.
    """
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(np.argsort(values, kind='stable')):
        highest = max(highest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = highest
    return adjusted


def seeds_needed(spread: float, difference: float, power: float = 0.8, most: int = 10_000) -> int:
    """Return how many pairs of runs find a difference by a two-sided paired t-test at 5 %.

    Args:
        spread: Standard deviation of the differences of pairs.
        difference: What there is to be found, in the same unit.
        power: Probability to find it.
        most: Where the search ends.

    Returns:
        The smallest number n >= 2 with that power, by the noncentral t distribution; ``most`` if there is none below.
    """
    if spread <= 0:
        return 2
    stats = _distributions()

    def found(n: int) -> bool:
        shift, edge = difference / spread * math.sqrt(n), stats.t.ppf(0.975, n - 1)
        return stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift) >= power

    low = high = 2
    while high < most and not found(high):  # from below: far out, SciPy's distribution has no values
        low, high = high, min(2 * high, most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(middle) else (middle + 1, high)
    return low


def choose(scores: Mapping[float, Sequence[float]]) -> float:
    """Return the value with the highest mean score; the smallest of several.

    Args:
        scores: Scores on held-out images by value, one per seed.
    """
    return max(sorted(scores), key=lambda value: round(mean_spread(scores[value])[0], 9))
