"""Comparisons of arms: textbook values, coverage, and that equal arms find no winner too often."""

import math

import numpy as np
import pytest
from scipy import stats

from mmcds.core.errors import ConfigError
from mmcds.study.plan import FINAL_SEEDS, TRIAL_SEEDS
from mmcds.study.statistics import choose, compare, holm, seeds_needed


def test_a_comparison_by_hand():
    """Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) with 2 degrees of freedom, whose quantile is 4.30265."""
    found = compare({0: 11, 1: 12, 2: 13, 9: 50}, {2: 10, 1: 10, 0: 10, 8: 0})
    half = 4.302653 / math.sqrt(3)
    assert (found.mean, found.spread, found.seeds) == (2, 1, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(1 - t / math.sqrt(t * t + 2), rel=1e-9), 'the closed form of 2 degrees of freedom'


def test_a_comparison_is_scipys_paired_test():
    rng = np.random.default_rng(0)
    ours, others = rng.normal(size=(2, 7))
    found = compare(dict(enumerate(ours)), dict(enumerate(others)))
    assert found.p == pytest.approx(stats.ttest_rel(ours, others).pvalue, rel=1e-9)
    turned = compare(dict(enumerate(others)), dict(enumerate(ours)))
    assert (turned.mean, turned.low, turned.p) == pytest.approx((-found.mean, -found.high, found.p))


def test_equal_numbers_are_no_difference_and_constant_ones_are():
    same = dict.fromkeys(range(5), 90.0)
    assert (compare(same, same).p, compare(same, same).mean) == (1, 0)
    assert compare(dict.fromkeys(range(5), 91.0), same).p == 0


def test_one_seed_is_no_comparison():
    with pytest.raises(ConfigError, match='needs two seeds that both arms have, got 1'):
        compare({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0})


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(2000):
        found = compare(dict(enumerate(rng.normal(0.4, 1, 5))), dict.fromkeys(range(5), 0.0))
        held += found.low <= 0.4 <= found.high
    assert stats.binomtest(held, 2000, 0.95).pvalue > 1e-4


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@pytest.mark.parametrize(('spread', 'difference'), [(0.5, 0.3), (1.0, 1.0), (0.2, 0.3)])
def test_the_number_of_seeds_has_the_power_that_it_promises(spread, difference):
    number, rng = seeds_needed(spread, difference), np.random.default_rng(2)

    def power(n):
        draws = rng.normal(difference, spread, (4000, n))
        return (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean()

    assert power(number) >= 0.8 - 0.025
    assert power(number - 1) <= 0.8 + 0.025


def test_more_spread_needs_more_seeds():
    numbers = [seeds_needed(spread, 0.3) for spread in (0.0, 0.1, 0.3, 1.0, 3.0)]
    assert numbers[0] == 2
    assert numbers == sorted(numbers)
    assert seeds_needed(1e6, 0.3, most=50) == 50


def test_the_choice_is_the_highest_mean_and_the_smallest_of_equals():
    assert choose({1.0: [50, 60], 0.1: [54, 55], 3.0: [57, 55]}) == 3.0
    assert choose({3.0: [50, 60], 1.0: [60, 50], 0.3: [54, 54]}) == 1.0


def test_equal_arms_find_a_winner_in_no_more_than_one_study_of_twenty():
    """Whole studies of nine arms that are all the same: four values each, chosen by trials, then compared."""
    rng, studies, winners, seeds = np.random.default_rng(3), 1500, 0, len(FINAL_SEEDS)
    for _ in range(studies):
        effect = rng.normal(0, 1, seeds)  # of the seed, on all arms: what pairs share
        arms = []
        for _ in range(9):
            trials = {value: rng.normal(90, 0.5, len(TRIAL_SEEDS)).tolist() for value in (0.1, 0.3, 1.0, 3.0)}
            assert choose(trials) in trials
            arms.append(dict(enumerate(90 + effect + rng.normal(0, 0.5, seeds))))
        compared = [compare(arm, arms[0]) for arm in arms[1:]]
        adjusted = holm([each.p for each in compared])
        winners += any(p < 0.05 and each.mean > 0 for p, each in zip(adjusted, compared, strict=True))
    assert stats.binomtest(winners, studies, 0.05, alternative='greater').pvalue > 1e-3
    assert winners > 0, 'the simulation can find one'
