"""The statistics of a rank on constructed results: intervals, rank sets, ties, pairing by seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from scipy import stats

from tests.board.test_tables import DEMO, board, complete_results, make_result, row
from uebench.board.columns import breaker_frame, noise_frame
from uebench.board.intervals import confidence_interval, means_with_draws
from uebench.board.ranking import NO_RULINGS, rank_results
from uebench.board.tables import breaker_table, noise_table, target_table
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.storage.result import Result

CLEAN = [
    make_result("none", breaker, seed, value)
    for breaker, value in (("none", 0.9), ("adv-linf", 0.8))
    for seed in (0, 1, 2)
]


def entry(noise: str, attacked: tuple[float, ...], plain: float = 0.1) -> list[Result]:
    """Return the results of a noise: accuracies under attack by seed, and one plain accuracy for all seeds."""
    return [
        make_result(noise, breaker, seed, value)
        for breaker, values in (("none", (plain,) * len(attacked)), ("adv-linf", attacked))
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize("seeds", [(0, 1, 2), (5, 7, 8, 11)])
def test_the_interval_of_one_mean_is_students(seeds: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).normal(0.5, 0.1, len(seeds))
    low, high = confidence_interval(means_with_draws(values, seeds))
    expected = stats.t.interval(0.95, len(seeds) - 1, values.mean(), stats.sem(values))
    assert low is not None
    assert high is not None
    assert (high - low) == pytest.approx(expected[1] - expected[0], rel=0.1), "draws of a heavy tail"
    assert (high + low) / 2 == pytest.approx(values.mean())


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize(
    ("accuracies", "coverage"),
    [
        ((0.5,), (0.93, 0.97)),
        ((0.5, 0.4, 0.3), (0.93, 0.97)),
        ((0.5, 0.5), (0.92, 0.98)),
        ((0.5,) * 5, (0.90, 1.0)),
    ],
    ids=["one breaker", "different", "two equal", "five equal"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    count: int, accuracies: tuple[float, ...], coverage: tuple[float, float]
) -> None:
    """The highest of several equal means is too high on average; an interval must correct that."""
    random, covered, trials = np.random.default_rng(count), 0, 1500
    seeds = tuple(range(count))
    for _ in range(trials):
        plain = random.normal(0.9, 0.005, count)
        protected = np.array(accuracies)[:, None] + random.normal(0, 0.02, (len(accuracies), count))
        low, high = confidence_interval(means_with_draws(plain, seeds) - means_with_draws(protected, seeds).max(0))
        assert low is not None
        assert high is not None
        covered += low <= 0.9 - max(accuracies) <= high
    assert coverage[0] <= covered / trials <= coverage[1]


def test_a_row_has_the_interval_of_the_whole_procedure() -> None:
    """The worst breaker and the plain reference vary together, so the interval of their difference is narrow."""
    offsets = [0.00, 0.02, 0.04]
    results = [
        make_result("none", breaker, seed, accuracy + offset)
        for breaker, accuracy in (("none", 0.9), ("adv-linf", 0.8))
        for seed, offset in enumerate(offsets)
    ]
    correlated = entry("em", tuple(0.5 + offset for offset in offsets))
    reversed_order = entry("rem", tuple(0.5 + offset for offset in reversed(offsets)))
    demo_board = board([*results, *correlated, *reversed_order])
    em, rem = row(demo_board, "em"), row(demo_board, "rem")
    assert em["residual_protection"] == pytest.approx(0.4)
    assert rem["residual_protection"] == pytest.approx(0.4)
    assert (em["residual_low"], em["residual_high"]) == (pytest.approx(0.4), pytest.approx(0.4))
    wide = stats.t.interval(0.95, 2, 0.4, stats.sem([0.36, 0.40, 0.44]))
    assert rem["residual_high"] - rem["residual_low"] == pytest.approx(wide[1] - wide[0], rel=0.1)
    assert (em["gap_low"], em["gap_high"]) == (pytest.approx(0.3), pytest.approx(0.3))


def test_one_seed_has_no_interval_and_two_seeds_have_a_wide_one() -> None:
    rem = row(board(complete_results(1)), "rem")
    assert (rem["residual_low"], rem["residual_high"], rem["rank_low"]) == (None, None, None)
    assert rem["status"] == "provisional"
    two_seeds = board([*CLEAN[:2], *CLEAN[3:5], *entry("em", (0.50, 0.52))])
    em = row(two_seeds, "em")
    assert em["residual_high"] - em["residual_low"] > 0.2, "Student's with one degree of freedom"


def test_intervals_hold_only_values_that_are_possible() -> None:
    accuracies = {"none": [0.99, 0.85, 0.95], "em": [0.02, 0.25, 0.12]}
    results = [
        make_result(noise, breaker, seed, accuracy)
        for noise, values in accuracies.items()
        for breaker in ("none", "adv-linf")
        for seed, accuracy in enumerate(values)
    ]
    demo_board = board(results)
    noise = next(row for row in demo_board.noises if row.noise == "em")
    assert noise.residual_high == 1, "clean accuracy is 1 at most, protected accuracy 0 at least"
    assert noise.residual_low is not None
    assert noise.residual_low > 0
    assert {row.recovered_low for row in demo_board.breakers} == {0}


def test_the_same_results_in_another_order_give_the_same_numbers() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.55, 0.6)), *entry("rem", (0.52, 0.5, 0.51))]
    assert noise_frame(board(results)).equals(noise_frame(board(results[::-1])))
    assert breaker_frame(board(results)).equals(breaker_frame(board(results[::-1])))


def test_more_entries_do_not_change_an_interval() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.55, 0.6))]
    more = [*results, *entry("rem", (0.52, 0.5, 0.51)), *entry("sem", (0.1, 0.1, 0.2))]
    assert row(board(results), "em")["residual_low"] == row(board(more), "em")["residual_low"]


def test_rank_sets_are_on_the_board_and_by_budget_class() -> None:
    same_class = [
        *entry("em", (0.50, 0.51, 0.50)),
        *entry("rem", (0.505, 0.51, 0.50)),
        *entry("sem", (0.7, 0.71, 0.70)),
    ]
    other_class = [structs.replace(result, noise_linf=8 / 255) for result in entry("tap", (0.88, 0.88, 0.88))]
    demo_board = board([*CLEAN, *same_class, *other_class])
    sets = {
        noise: (row(demo_board, noise)["rank_low"], row(demo_board, noise)["rank_high"])
        for noise in ("em", "rem", "sem", "tap")
    }
    assert sets == {"em": (1, 2), "rem": (1, 2), "sem": (3, 3), "tap": (1, 1)}


def test_a_provisional_entry_has_a_rank_and_changes_no_other_rank() -> None:
    ranked = [*entry("em", (0.50, 0.51, 0.50)), *entry("rem", (0.6, 0.61, 0.60)), *entry("sem", (0.7, 0.71, 0.70))]
    without, with_provisional = board([*CLEAN, *ranked]), board([*CLEAN, *ranked, *entry("tap", (0.54, 0.58))])
    for noise, rank in (("em", 1), ("rem", 2), ("sem", 3)):
        for demo_board in (without, with_provisional):
            values = row(demo_board, noise)
            assert (values["rank"], values["rank_low"], values["rank_high"]) == (rank, rank, rank)
    tap = row(with_provisional, "tap")
    assert (tap["rank"], tap["rank_low"]) == (2, None)
    provisional_only = board([*CLEAN, *entry("em", (0.5, 0.5)), *entry("tap", (0.54, 0.58))])
    assert [row(provisional_only, noise)["rank"] for noise in ("em", "tap")] == [1, 2]


def test_an_accepted_breaker_with_a_single_seed_leaves_no_interval() -> None:
    """The deviation over seeds is unknown."""
    stronger = [make_result(noise, "adv-linf:radius=8/255", 0, value) for noise, value in (("none", 0.8), ("em", 0.7))]
    results = [*CLEAN, *entry("em", (0.5, 0.51, 0.49)), *stronger]
    challenges = {stronger[1].parameters["noise"]: (stronger[1].parameters["breaker"],)}
    (demo_board,) = rank_results(DEMO, results, replace(NO_RULINGS, challenges=challenges))
    em = row(demo_board, "em")
    assert em["residual_protection"] == pytest.approx(0.2)
    assert (em["residual_low"], em["residual_high"], em["gap_low"], em["rank_low"]) == (None, None, None, None)


def with_older_version(result: Result, part: str) -> Result:
    """Return a result of an older version of a component, which has the same label."""
    texts = {**result.parameters, part: result.parameters[part].replace("@1", "@0")}
    assert texts != result.parameters
    return structs.replace(result, key=result.key + "old", parameters=texts, test_accuracy=0.95)


@pytest.mark.parametrize("part", ["noise", "breaker"])
def test_an_older_version_with_the_same_label_has_another_row(part: str) -> None:
    new = entry("em", (0.5, 0.5, 0.5))
    old = [with_older_version(result, part) for result in new if result.breaker != "none"]
    demo_board, new_only = board([*CLEAN, *new, *old]), board([*CLEAN, *new])
    rows = noise_frame(demo_board)[noise_frame(demo_board)["parameters"] == new[0].parameters["noise"]]
    assert list(rows["accuracy adv-linf"]) == [pytest.approx(0.5)]
    assert list(rows["residual_protection"]) == [row(new_only, "em")["residual_protection"]]
    for table, column in ((noise_frame(demo_board), "noise"), (breaker_frame(demo_board), "breaker")):
        assert table[column].is_unique
    assert breaker_table(demo_board)
    assert noise_table(demo_board)


def test_equal_entries_share_a_rank() -> None:
    demo_board = board(
        [*CLEAN, *entry("em", (0.5, 0.5, 0.5)), *entry("rem", (0.5, 0.5, 0.5)), *entry("sem", (0.6, 0.6, 0.6))]
    )
    assert [row(demo_board, noise)["rank"] for noise in ("em", "rem", "sem")] == [1, 1, 3]


def test_values_that_differ_by_rounding_only_share_a_rank() -> None:
    rounded_up = (0.1 + 0.2, 0.3, 0.3)
    demo_board = board(
        [*CLEAN, *entry("em", rounded_up), *entry("rem", (0.3, 0.3, 0.3)), *entry("sem", (0.3, 0.3, 0.3001))]
    )
    assert row(demo_board, "em")["residual_protection"] != row(demo_board, "rem")["residual_protection"]
    assert [row(demo_board, noise)["rank"] for noise in ("em", "rem", "sem")] == [1, 1, 3]


def test_breakers_that_recover_the_same_share_a_rank() -> None:
    equal = [
        make_result(result.noise, "adv-linf:radius=8/255", result.seed, 0.5) for result in entry("em", (0.1,) * 3)[:3]
    ]
    table = breaker_frame(board([*CLEAN, *entry("em", (0.5,) * 3), *equal])).set_index("breaker")
    assert dict(table["rank"]) == {"adv-linf": 1, "adv-linf:radius=8/255": 1, "none": 3}


@pytest.mark.parametrize(("floor", "gap"), [(0.5, 0.3), (8 / 9, 0.3), (0.9, 0.8), (1.0, 0.8)])
def test_a_breaker_counts_for_the_gap_from_the_floor_of_the_suite(floor: float, gap: float) -> None:
    """On clean images plain training reaches 0.9 and the attack leaves 0.8, which is 8/9 of it."""
    demo_board = board([*CLEAN, *entry("em", (0.5,) * 3)], replace(DEMO, floor=floor))
    assert row(demo_board, "em")["same_breaker_gap"] == pytest.approx(gap)
    assert row(demo_board, "em")["residual_protection"] == pytest.approx(0.4), "the residual ignores the floor"


def test_without_a_breaker_above_the_floor_there_is_a_rank_but_no_gap() -> None:
    suite = replace(DEMO, floor=0.95, required_breakers=["adv-linf"])
    em = row(board([*CLEAN, *entry("em", (0.5,) * 3)], suite), "em")
    assert (em["same_breaker_gap"], em["gap_low"], em["gap_high"]) == (None, None, None)
    assert (em["status"], em["rank"]) == ("ranked", 1)


def on_wide(result: Result, accuracy: float) -> Result:
    """Return a result as if it came from a wider network, with this accuracy."""
    texts = {**result.parameters, "target": canonical_text(registry().build("target", "smallcnn:width=8"))}
    return structs.replace(
        result, key=result.key + "w", target="smallcnn:width=8", parameters=texts, test_accuracy=accuracy
    )


def test_every_target_counts_and_the_worst_of_them_decides() -> None:
    """On the wider network em protects less and rem protects more."""
    two_targets = replace(DEMO, required_targets=["smallcnn", "smallcnn:width=8"])
    clean = [*CLEAN, *(on_wide(result, result.test_accuracy) for result in CLEAN)]
    em, rem = entry("em", (0.3, 0.3, 0.3)), entry("rem", (0.5, 0.5, 0.5))
    wider = [on_wide(result, 0.6) for result in em] + [on_wide(result, 0.2) for result in rem]
    demo_board = board([*clean, *em, *rem, *wider], two_targets)
    assert row(demo_board, "em")["residual_protection"] == pytest.approx(0.9 - 0.6)
    assert row(demo_board, "rem")["residual_protection"] == pytest.approx(0.9 - 0.5)
    assert row(demo_board, "em")["accuracy adv-linf"] == pytest.approx(0.6)


def test_a_breaker_has_an_interval_over_the_ranked_noises() -> None:
    demo_board = board([*CLEAN, *entry("em", (0.5, 0.55, 0.6)), *entry("rem", (0.6, 0.55, 0.5))])
    table = breaker_frame(demo_board).set_index("breaker")
    assert table.loc["adv-linf", "recovered"] == pytest.approx(0.55)
    low, high = table.loc["adv-linf", ["recovered_low", "recovered_high"]]
    assert (low, high) == (pytest.approx(0.55), pytest.approx(0.55)), "in every seed the two differences cancel"


def test_costs_of_a_noise_and_a_breaker_with_one_name_are_separate() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.5, 0.5))]
    demo_board = board(
        [structs.replace(result, noise_seconds=float(result.noise == "em"), flags=[result.noise]) for result in results]
    )
    assert row(demo_board, "none")["noise_seconds"] == 0
    assert row(demo_board, "none")["flags"] == "none"


def test_a_breaker_that_changes_nothing_is_flagged() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.5, 0.5))]
    idle = [
        make_result(result.noise, "lowpass-mean:size=1", result.seed, result.test_accuracy)
        for result in results
        if result.breaker == "none"
    ]
    table = breaker_frame(board([*results, *idle])).set_index("breaker")
    assert table.loc["lowpass-mean:size=1", "flags"] == "identity-breaker"
    assert table.loc["adv-linf", "flags"] == ""
    nearly = [*idle[:-1], structs.replace(idle[-1], test_accuracy=0.101)]
    assert not any(breaker_frame(board([*results, *nearly]))["flags"])


def test_higher_accuracy_on_protected_than_on_clean_images_is_flagged() -> None:
    demo_board = board([*CLEAN, *entry("em", (0.85, 0.85, 0.85)), *entry("rem", (0.79, 0.79, 0.79))])
    assert row(demo_board, "em")["flags"] == "clean-below-protected"
    assert row(demo_board, "rem")["flags"] == ""
    assert row(demo_board, "none")["flags"] == ""


def test_a_target_that_no_rank_needs_is_in_parentheses_and_changes_nothing() -> None:
    em = entry("em", (0.3, 0.3, 0.4))
    one_target = board([*CLEAN, *em])
    wider = [on_wide(result, 0.5 + 0.1 * result.seed if result.breaker == "none" else 0.1) for result in [*CLEAN, *em]]
    rows = target_table(board([*CLEAN, *em, *wider]))
    assert rows == (
        ["rank", "noise", "smallcnn", "(smallcnn:width=8)"],
        [["–", "none", "90.0 ± 0.0", "60.0 ± 10.0"], ["1", "em", "33.3 ± 5.8", "60.0 ± 10.0"]],
    )
    with_wider = row(board([*CLEAN, *em, *wider]), "em")
    assert {name: with_wider[name] for name in row(one_target, "em")} == pytest.approx(row(one_target, "em"))
    assert target_table(one_target)[0] == ["rank", "noise", "smallcnn"]
    unfinished = [result for result in wider if (result.noise, result.breaker) != ("em", "adv-linf")]
    assert target_table(board([*CLEAN, *em, *unfinished]))[1][1][-1] == "–", "not every required breaker ran there"
