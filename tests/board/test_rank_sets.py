"""Rank sets: clear differences are significant, equal noises share all ranks, and the sets have their coverage."""

from __future__ import annotations

import numpy as np
import pytest

from tests.board.rank_coverage import simulate
from uebench.board.intervals import CONFIDENCE
from uebench.board.rank_sets import moderate_variances, rank_sets

RANDOM = np.random.default_rng(7)


def constructed(*means: tuple[float, ...], deviation: float = 0.3, seeds: int = 3) -> np.ndarray:
    """Return values (noises, cells, seeds) whose means over seeds are exactly these, in points."""
    errors = RANDOM.standard_normal((len(means), len(means[0]), seeds))
    errors -= errors.mean(-1, keepdims=True)
    return np.array(means)[..., None] + deviation * errors / errors.std(-1, ddof=1, keepdims=True)


def test_very_different_noises_have_one_rank_each_and_the_lowest_accuracy_is_first() -> None:
    assert rank_sets(constructed((-30, -40), (-10, -50), (-20, -20), (-60, 0))) == [(1, 1), (3, 3), (2, 2), (4, 4)]


def test_equal_noises_share_every_rank() -> None:
    assert rank_sets(constructed(*[(-20, -20)] * 5, deviation=2)) == [(1, 5)] * 5


def test_a_noise_with_large_variance_does_not_widen_the_sets_of_others() -> None:
    small_variance = constructed(*[(-10.0 * number, -10.0 * number - 1) for number in range(1, 8)])
    large_variance = constructed((-40, -45), deviation=12)
    *sets, wide = rank_sets(np.concatenate([small_variance, large_variance]))
    assert wide[1] - wide[0] >= 2
    assert all(sets[number][1] < sets[number - 3][0] for number in range(3, 7))


def test_an_error_that_all_noises_share_in_a_seed_does_not_widen_the_sets() -> None:
    values = constructed((-30,), (-28,), (-26,), (-24,))
    shared_error = np.array([9.0, -9.0, 0.0])
    assert rank_sets(values + shared_error) == rank_sets(values) == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_a_cell_of_one_noise_counts_only_for_that_noise() -> None:
    values = constructed((-30, 0), (-20, -25), (-10, -25))
    values[1:, 1] = np.nan
    assert rank_sets(values) == [(3, 3), (1, 1), (2, 2)]


def test_order_and_scale_of_the_input_change_nothing() -> None:
    values = constructed((-30, -3), (-28, -30), (-9, -40), (-8, -8))
    order = [2, 0, 3, 1]
    assert rank_sets(values[order]) == [rank_sets(values)[index] for index in order]
    assert rank_sets(values / 100) == rank_sets(values)


@pytest.mark.parametrize("values", [constructed((-3, -2), (-1, -5)) * 0, constructed((-3,)), constructed((-3,), (-5,))])
def test_few_noises_and_cells_without_variation_raise_nothing(values: np.ndarray) -> None:
    assert all(1 <= low <= high <= len(values) for low, high in rank_sets(values))


def test_a_single_seed_has_no_rank_sets() -> None:
    with pytest.raises(ValueError, match="at least two seeds, not 1"):
        rank_sets(constructed((-3,), (-5,))[..., :1])


def test_equal_variances_are_pooled_and_unequal_ones_are_not() -> None:
    random = np.random.default_rng(0)
    equal, freedom = moderate_variances(random.chisquare(2, 400) / 2, 2)
    assert freedom > 2 * 2  # as if each variance came from more than twice as many seeds
    assert equal.mean() == pytest.approx(1, rel=0.15)
    assert equal.std() < 0.5
    same, freedom = moderate_variances(np.full(9, 4.0), 2)
    assert freedom == np.inf
    assert np.ptp(same) == 0
    unequal, freedom = moderate_variances(np.exp(random.normal(0, 4, 400)) * random.chisquare(2, 400) / 2, 2)
    assert 2 < freedom < 3
    assert unequal.max() > 1000 * unequal.min()


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("spread", ["equal", "unequal", "few large", "skewed to high"])
@pytest.mark.parametrize("order", ["all noises equal", "equal but for breakers", "half of them equal"])
def test_sets_hold_the_true_ranks_with_the_stated_probability(order: str, spread: str, seeds: int) -> None:
    boards = 60
    covered, width = simulate(order, spread, seeds, boards, shared=0.5, start=1)
    error = np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / boards)
    assert covered >= CONFIDENCE - 3 * error
    assert width < 7.6 or order != "half of them equal"  # sets of all ranks would always hold the true ones
