"""The statistics of a rank on results made up for the purpose: intervals, bands, ties, pairing by seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from scipy import stats

from tests.board.test_tables import DEMO, board, full, made, row
from uebench.board.columns import breaker_frame, noise_frame
from uebench.board.intervals import confidence_interval, means_with_draws
from uebench.board.ranking import NO_RULINGS, rank_results
from uebench.board.tables import breaker_table, noise_table, target_table
from uebench.components.registry import registry
from uebench.components.spec import canonical_text
from uebench.storage.result import Result

CLEAN = [
    made("none", breaker, seed, value) for breaker, value in (("none", 0.9), ("adv-linf", 0.8)) for seed in (0, 1, 2)
]


def entry(noise: str, attacked: tuple[float, ...], plain: float = 0.1) -> list[Result]:
    """Return the records of a noise: accuracies under attack by seed, the same plain accuracy for all."""
    return [
        made(noise, breaker, seed, value)
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
    ids=["one breaker", "apart", "two alike", "five alike"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    count: int, accuracies: tuple[float, ...], coverage: tuple[float, float]
) -> None:
    """The highest of several alike is too high on average; an interval must know that."""
    draw, held, trials = np.random.default_rng(count), 0, 1500
    seeds = tuple(range(count))
    for _ in range(trials):
        plain = draw.normal(0.9, 0.005, count)
        found = np.array(accuracies)[:, None] + draw.normal(0, 0.02, (len(accuracies), count))
        low, high = confidence_interval(means_with_draws(plain, seeds) - means_with_draws(found, seeds).max(0))
        assert low is not None
        assert high is not None
        held += low <= 0.9 - max(accuracies) <= high
    assert coverage[0] <= held / trials <= coverage[1]


def test_a_row_has_the_interval_of_the_whole_procedure() -> None:
    """Worst breaker and plain reference vary together: their difference is steady, and so is the interval narrow."""
    shared = [0.00, 0.02, 0.04]
    results = [
        made("none", breaker, s, v + d)
        for breaker, v in (("none", 0.9), ("adv-linf", 0.8))
        for s, d in enumerate(shared)
    ]
    steady = entry("em", tuple(0.5 + d for d in shared))
    loose = entry("rem", tuple(0.5 + d for d in reversed(shared)))
    found = board([*results, *steady, *loose])
    em, rem = row(found, "em"), row(found, "rem")
    assert em["residual_protection"] == pytest.approx(0.4)
    assert rem["residual_protection"] == pytest.approx(0.4)
    assert (em["residual_low"], em["residual_high"]) == (pytest.approx(0.4), pytest.approx(0.4))
    wide = stats.t.interval(0.95, 2, 0.4, stats.sem([0.36, 0.40, 0.44]))
    assert rem["residual_high"] - rem["residual_low"] == pytest.approx(wide[1] - wide[0], rel=0.1)
    assert (em["gap_low"], em["gap_high"]) == (pytest.approx(0.3), pytest.approx(0.3))


def test_a_seed_alone_has_no_interval_and_two_have_a_wide_one() -> None:
    one = row(board(full(1)), "rem")
    assert (one["residual_low"], one["residual_high"], one["rank_low"]) == (None, None, None)
    assert one["status"] == "provisional"
    two = board([*CLEAN[:2], *CLEAN[3:5], *entry("em", (0.50, 0.52))])
    assert row(two, "em")["residual_high"] - row(two, "em")["residual_low"] > 0.2, (
        "Student's with one degree of freedom"
    )


def test_the_same_results_in_another_order_give_the_same_numbers() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.55, 0.6)), *entry("rem", (0.52, 0.5, 0.51))]
    assert noise_frame(board(results)).equals(noise_frame(board(results[::-1])))
    assert breaker_frame(board(results)).equals(breaker_frame(board(results[::-1])))


def test_more_entries_do_not_change_an_interval() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.55, 0.6))]
    more = [*results, *entry("rem", (0.52, 0.5, 0.51)), *entry("sem", (0.1, 0.1, 0.2))]
    assert row(board(results), "em")["residual_low"] == row(board(more), "em")["residual_low"]


def test_rank_sets_are_on_the_board_and_by_budget_class() -> None:
    tight = [*entry("em", (0.50, 0.51, 0.50)), *entry("rem", (0.505, 0.51, 0.50)), *entry("sem", (0.7, 0.71, 0.70))]
    apart = [structs.replace(one, noise_linf=8 / 255) for one in entry("tap", (0.88, 0.88, 0.88))]
    found = board([*CLEAN, *tight, *apart])
    sets = {
        noise: (row(found, noise)["rank_low"], row(found, noise)["rank_high"]) for noise in ("em", "rem", "sem", "tap")
    }
    assert sets == {"em": (1, 2), "rem": (1, 2), "sem": (3, 3), "tap": (1, 1)}


def test_a_provisional_entry_has_the_place_it_would_have_and_moves_nobody() -> None:
    ranked = [*entry("em", (0.50, 0.51, 0.50)), *entry("rem", (0.6, 0.61, 0.60)), *entry("sem", (0.7, 0.71, 0.70))]
    alone, beside = board([*CLEAN, *ranked]), board([*CLEAN, *ranked, *entry("tap", (0.54, 0.58))])
    for noise, place in (("em", 1), ("rem", 2), ("sem", 3)):
        for found in (alone, beside):
            own = row(found, noise)
            assert (own["rank"], own["rank_low"], own["rank_high"]) == (place, place, place)
    assert (row(beside, "tap")["rank"], row(beside, "tap")["rank_low"]) == (2, None)
    few = board([*CLEAN, *entry("em", (0.5, 0.5)), *entry("tap", (0.54, 0.58))])
    assert [row(few, noise)["rank"] for noise in ("em", "tap")] == [1, 2]


def test_a_breaker_that_counts_with_a_single_seed_leaves_no_interval() -> None:
    """Nothing tells how far that seed lies from the mean."""
    stronger = [made(noise, "adv-linf:radius=8/255", 0, value) for noise, value in (("none", 0.8), ("em", 0.7))]
    results = [*CLEAN, *entry("em", (0.5, 0.51, 0.49)), *stronger]
    against = {stronger[1].parameters["noise"]: (stronger[1].parameters["breaker"],)}
    (found,) = rank_results(DEMO, results, replace(NO_RULINGS, challenges=against))
    one = row(found, "em")
    assert one["residual_protection"] == pytest.approx(0.2)
    assert (one["residual_low"], one["residual_high"], one["gap_low"], one["rank_low"]) == (None, None, None, None)


def raised(one: Result, part: str) -> Result:
    """Return a record of an older version of a component, which bears the same label."""
    texts = {**one.parameters, part: one.parameters[part].replace("@1", "@0")}
    assert texts != one.parameters
    return structs.replace(one, key=one.key + "old", parameters=texts, test_accuracy=0.95)


@pytest.mark.parametrize("part", ["noise", "breaker"])
def test_an_older_version_is_told_from_the_new_one_of_the_same_label(part: str) -> None:
    new = entry("em", (0.5, 0.5, 0.5))
    old = [raised(one, part) for one in new if one.breaker != "none"]
    found, alone = board([*CLEAN, *new, *old]), board([*CLEAN, *new])
    rows = noise_frame(found)[noise_frame(found)["parameters"] == new[0].parameters["noise"]]
    assert list(rows["accuracy adv-linf"]) == [pytest.approx(0.5)]
    assert list(rows["residual_protection"]) == [row(alone, "em")["residual_protection"]]
    for table, column in ((noise_frame(found), "noise"), (breaker_frame(found), "breaker")):
        assert table[column].is_unique
    assert breaker_table(found)
    assert noise_table(found)


def test_equal_entries_share_a_rank() -> None:
    found = board(
        [*CLEAN, *entry("em", (0.5, 0.5, 0.5)), *entry("rem", (0.5, 0.5, 0.5)), *entry("sem", (0.6, 0.6, 0.6))]
    )
    assert [row(found, noise)["rank"] for noise in ("em", "rem", "sem")] == [1, 1, 3]


def test_what_differs_by_rounding_alone_is_equal() -> None:
    third = (0.1 + 0.2, 0.3, 0.3)
    found = board([*CLEAN, *entry("em", third), *entry("rem", (0.3, 0.3, 0.3)), *entry("sem", (0.3, 0.3, 0.3001))])
    assert row(found, "em")["residual_protection"] != row(found, "rem")["residual_protection"]
    assert [row(found, noise)["rank"] for noise in ("em", "rem", "sem")] == [1, 1, 3]


def test_breakers_that_recover_the_same_share_a_rank() -> None:
    alike = [made(one.noise, "adv-linf:radius=8/255", one.seed, 0.5) for one in entry("em", (0.1,) * 3)[:3]]
    table = breaker_frame(board([*CLEAN, *entry("em", (0.5,) * 3), *alike])).set_index("breaker")
    assert dict(table["rank"]) == {"adv-linf": 1, "adv-linf:radius=8/255": 1, "none": 3}


@pytest.mark.parametrize(("floor", "gap"), [(0.5, 0.3), (8 / 9, 0.3), (0.9, 0.8), (1.0, 0.8)])
def test_the_floor_is_the_suites_and_a_breaker_that_reaches_it_counts(floor: float, gap: float) -> None:
    """On clean images plain training reaches 0.9 and the attack leaves 0.8, which is 8/9 of it."""
    found = board([*CLEAN, *entry("em", (0.5,) * 3)], replace(DEMO, floor=floor))
    assert row(found, "em")["same_breaker_gap"] == pytest.approx(gap)
    assert row(found, "em")["residual_protection"] == pytest.approx(0.4), "the floor is not for it"


def test_without_a_breaker_above_the_floor_there_is_no_gap_but_a_rank() -> None:
    chosen = replace(DEMO, floor=0.95, required_breakers=["adv-linf"])
    found = row(board([*CLEAN, *entry("em", (0.5,) * 3)], chosen), "em")
    assert (found["same_breaker_gap"], found["gap_low"], found["gap_high"]) == (None, None, None)
    assert (found["status"], found["rank"]) == ("ranked", 1)


def on_wide(one: Result, accuracy: float) -> Result:
    """Return a record of a wider network."""
    texts = {**one.parameters, "target": canonical_text(registry().build("target", "smallcnn:width=8"))}
    return structs.replace(one, key=one.key + "w", target="smallcnn:width=8", parameters=texts, test_accuracy=accuracy)


def test_every_target_counts_and_the_worst_of_them_decides() -> None:
    """On the wider network em protects less; rem the other way round."""
    both = replace(DEMO, required_targets=["smallcnn", "smallcnn:width=8"])
    clean = [*CLEAN, *(on_wide(one, one.test_accuracy) for one in CLEAN)]
    em, rem = entry("em", (0.3, 0.3, 0.3)), entry("rem", (0.5, 0.5, 0.5))
    wider = [on_wide(one, 0.6) for one in em] + [on_wide(one, 0.2) for one in rem]
    found = board([*clean, *em, *rem, *wider], both)
    assert row(found, "em")["residual_protection"] == pytest.approx(0.9 - 0.6)
    assert row(found, "rem")["residual_protection"] == pytest.approx(0.9 - 0.5)
    assert row(found, "em")["accuracy adv-linf"] == pytest.approx(0.6)


def test_a_breaker_has_an_interval_over_the_ranked_noises() -> None:
    found = board([*CLEAN, *entry("em", (0.5, 0.55, 0.6)), *entry("rem", (0.6, 0.55, 0.5))])
    table = breaker_frame(found).set_index("breaker")
    assert table.loc["adv-linf", "recovered"] == pytest.approx(0.55)
    low, high = table.loc["adv-linf", ["recovered_low", "recovered_high"]]
    assert (low, high) == (pytest.approx(0.55), pytest.approx(0.55)), "by seed the two cancel"


def test_what_a_noise_and_a_breaker_of_one_name_cost_is_kept_apart() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.5, 0.5))]
    found = board([structs.replace(one, noise_seconds=float(one.noise == "em"), flags=[one.noise]) for one in results])
    assert row(found, "none")["noise_seconds"] == 0
    assert row(found, "none")["flags"] == "none"


def test_a_breaker_that_changes_nothing_is_flagged() -> None:
    results = [*CLEAN, *entry("em", (0.5, 0.5, 0.5))]
    idle = [
        made(one.noise, "lowpass-mean:size=1", one.seed, one.test_accuracy) for one in results if one.breaker == "none"
    ]
    table = breaker_frame(board([*results, *idle])).set_index("breaker")
    assert table.loc["lowpass-mean:size=1", "flags"] == "identity-breaker"
    assert table.loc["adv-linf", "flags"] == ""
    nearly = [*idle[:-1], structs.replace(idle[-1], test_accuracy=0.101)]
    assert not any(breaker_frame(board([*results, *nearly]))["flags"])


def test_protected_images_that_teach_more_than_clean_ones_are_flagged() -> None:
    found = board([*CLEAN, *entry("em", (0.85, 0.85, 0.85)), *entry("rem", (0.79, 0.79, 0.79))])
    assert row(found, "em")["flags"] == "clean-below-protected"
    assert row(found, "rem")["flags"] == ""
    assert row(found, "none")["flags"] == ""


def test_a_target_that_no_rank_needs_is_shown_apart_and_changes_nothing() -> None:
    em = entry("em", (0.3, 0.3, 0.4))
    alone = board([*CLEAN, *em])
    wider = [on_wide(one, 0.5 + 0.1 * one.seed if one.breaker == "none" else 0.1) for one in [*CLEAN, *em]]
    rows = target_table(board([*CLEAN, *em, *wider]))
    assert rows == (
        ["rank", "noise", "smallcnn", "(smallcnn:width=8)"],
        [["–", "none", "90.0 ± 0.0", "60.0 ± 10.0"], ["1", "em", "33.3 ± 5.8", "60.0 ± 10.0"]],
    )
    both = row(board([*CLEAN, *em, *wider]), "em")
    assert {name: both[name] for name in row(alone, "em")} == pytest.approx(row(alone, "em"))
    assert target_table(alone)[0] == ["rank", "noise", "smallcnn"]
    unfinished = [one for one in wider if (one.noise, one.breaker) != ("em", "adv-linf")]
    assert target_table(board([*CLEAN, *em, *unfinished]))[1][1][-1] == "–", "not every required breaker ran there"
