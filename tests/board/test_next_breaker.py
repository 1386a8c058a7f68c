"""How much a rank depends on the list of breakers, and how far the next breaker lowers a residual."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.board.test_tables import DEMO, board, complete_results, make_result
from uebench.board.headline import headline
from uebench.board.next_breaker import (
    LeftOut,
    breaker_dependence,
    leave_breakers_out,
    prediction_coverage,
    prediction_drop,
)
from uebench.board.publish import publish_board
from uebench.board.tables import next_breaker_sentence, next_breaker_table
from uebench.storage.result import Result

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


def results_under_four_breakers() -> list[Result]:
    """Return complete results with two breakers more: rem falls to jpeg alone, sem to grayscale."""
    accuracies = {"none": (0.9, 0.9), "em": (0.5, 0.5), "rem": (0.80, 0.4), "sem": (0.2, 0.7)}
    return complete_results() + [
        make_result(noise, breaker, seed, accuracy + 0.01 * seed)
        for noise, pair in accuracies.items()
        for breaker, accuracy in zip(("jpeg", "grayscale"), pair, strict=True)
        for seed in range(3)
    ]


def test_a_board_says_what_each_noise_keeps_without_its_strongest_breaker() -> None:
    dependence = breaker_dependence(board(results_under_four_breakers()))
    assert dependence is not None
    assert dependence.breakers == 4
    found = {noise.row.noise: noise for noise in dependence.noises}
    assert list(found) == ["sem", "rem", "em"]
    rem = found["rem"]
    assert (rem.residual, rem.rank) == (pytest.approx(0.98 - 0.80), 2)
    assert rem.without == LeftOut("jpeg", pytest.approx(0.98 - 0.50), 1)
    assert (rem.rank_low, rem.rank_high) == (1, 3), "last without adv-linf, under which em is last"
    assert (found["em"].rank_low, found["em"].rank_high) == (1, 3)
    assert dependence.drop is None, "four breakers are too few for a bound with 90 %"
    assert next_breaker_sentence(dependence).startswith("4 breakers were run against every noise, too few")


def test_a_breaker_that_was_not_run_against_every_noise_counts_for_its_noises_only() -> None:
    extra = [make_result("sem", "ueraser", seed, 0.97) for seed in range(3)]
    dependence = breaker_dependence(board([*results_under_four_breakers(), *extra]))
    assert dependence is not None
    assert dependence.breakers == 4
    sem = dependence.noises[-1]
    assert (sem.row.noise, sem.residual, sem.without.breaker) == ("sem", pytest.approx(0.02), "ueraser")
    assert breaker_dependence(board(complete_results())) is None, "two breakers are too few"


def test_ranks_are_within_the_budget_class() -> None:
    other_class = [
        make_result("sc", breaker, seed, 0.1, noise_norm="l2")
        for breaker in ("none", "adv-linf", "jpeg", "grayscale")
        for seed in range(3)
    ]
    dependence = breaker_dependence(board([*results_under_four_breakers(), *other_class]))
    assert dependence is not None
    ranks = [(noise.row.noise, noise.row.budget, noise.rank) for noise in dependence.noises]
    assert ranks == [(name, "L-inf 32/255", rank) for name, rank in (("sem", 1), ("rem", 2), ("em", 3))] + [
        ("sc", "L2", 1)
    ]


def test_the_table_has_the_bound_where_there_is_one() -> None:
    dependence = breaker_dependence(board(results_under_four_breakers()))
    assert dependence is not None
    head, rows = next_breaker_table(dependence)
    assert rows[1] == ["rem", "L-inf 32/255", "18.0", "2", "jpeg", "48.0", "1", "1 to 3", "–"]
    assert len(head) == len(rows[0])
    bounded = replace(dependence, breakers=12, drop=0.05, held=0.925)
    assert next_breaker_table(bounded)[1][1][-1] == "13.0"
    assert next_breaker_sentence(bounded) == (
        "By the 12 breakers that were run against every noise, the next one lowers the residual of a noise by at most "
        "5.0 points, with 90 % probability. When each of them in turn was the new one, the bound from the others held "
        "in 92.5 % of all cases."
    )
    assert next_breaker_sentence(replace(bounded, held=None)).endswith("too few to test the bound on them.")


def test_the_page_of_a_board_has_the_section_only_with_enough_breakers(tmp_path: Path) -> None:
    for results, expected in ((complete_results(), 0), (results_under_four_breakers(), 1)):
        publish_board(tmp_path, DEMO, [board(results)])
        assert (tmp_path / "README.md").read_text().count("**The next breaker.**") == expected


def test_the_headline_has_required_and_best_known_residuals() -> None:
    text = headline(board(results_under_four_breakers()))
    assert "`rem` keeps 47.0" not in text
    assert "`rem` keeps 48.0" in text
    assert text.endswith(
        "Against every breaker run so far, 4 on the board, `sem` keeps most, 28.0 points (`grayscale`), and `em` "
        "least, 10.0 points (`adv-linf`).\n"
    )
    only = [result for result in results_under_four_breakers() if result.noise in ("none", "rem")]
    assert headline(board(only)).endswith("4 on the board, `rem` keeps 18.0 points (`jpeg`).\n")
    assert headline(board(complete_results())).endswith(
        "The board has no other breaker, so the best known residuals are the same.\n"
    )
