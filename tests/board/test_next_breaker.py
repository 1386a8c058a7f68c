"""How much a rank depends on the list of breakers, and how far the next breaker lowers a residual."""

from __future__ import annotations

import numpy as np
import pytest

from uebench.board.next_breaker import LeftOut, leave_breakers_out, prediction_coverage, prediction_drop

RECOVERED = np.array([[0.2, 0.3, 0.7], [0.6, 0.5, 0.1]])


def test_without_its_strongest_breaker_a_noise_has_a_higher_residual_and_another_rank() -> None:
    first, second = leave_breakers_out(RECOVERED, 0.9, ["a", "b", "c"])
    assert first == [
        LeftOut("a", pytest.approx(0.2), 2),
        LeftOut("b", pytest.approx(0.2), 2),
        LeftOut("c", pytest.approx(0.6), 1),
    ]
    assert [without.rank for without in second] == [1, 1, 2]
    with pytest.raises(ValueError, match="at least two"):
        leave_breakers_out(RECOVERED[:, :1], 0.9, ["a"])


def test_equal_residuals_share_a_rank() -> None:
    rows = leave_breakers_out(np.array([[0.1, 0.3], [0.3, 0.1], [0.3, 0.3]]), 0.9, ["a", "b"])
    assert [[without.rank for without in row] for row in rows] == [[2, 1], [1, 2], [2, 2]]


def test_few_breakers_predict_nothing() -> None:
    assert prediction_drop(RECOVERED) is None
    assert prediction_coverage(RECOVERED) is None
    assert prediction_drop(np.zeros((4, 8)), coverage=0.95) is None  # this coverage needs 19 breakers
    assert prediction_drop(np.zeros((4, 19)), coverage=0.95) == 0


@pytest.mark.parametrize("tail", [1.0, 0.3])
def test_the_next_breaker_of_the_same_kind_stays_within_the_prediction(tail: float) -> None:
    random = np.random.default_rng(3)
    within_bound = []
    for _ in range(300):
        strength = random.beta(1, 3 * tail, (1, 13)) * 0.6 + 0.2 * random.random((6, 13))
        known, new = strength[:, :12], strength[:, 12]
        drop = prediction_drop(known)
        assert drop is not None
        within_bound.append((new - known.max(1) <= drop).mean())
    assert np.mean(within_bound) >= 0.9 - 3 * np.std(within_bound) / np.sqrt(len(within_bound))
    assert np.mean(within_bound) < 1


def test_coverage_on_a_board_counts_every_breaker_as_the_new_one() -> None:
    recovered = np.full((3, 14), 0.2)
    recovered[:, 5] = 0.8  # one strong breaker, which no other predicts
    assert prediction_coverage(recovered, coverage=0.9) == pytest.approx(13 / 14)
