"""Curves from results made up for the purpose, for which means, intervals and groups are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from msgspec import structs
from scipy import stats

from tests.board.test_tables import DEMO, made, text
from uebench.board.curves import Curves, make_curves
from uebench.components.spec import canonical_text
from uebench.planning.selection import build_chain, chain_label_in_suite
from uebench.storage.result import CurvePoint, Result

ATTACKS = {1 / 255: "adv-linf:radius=1/255", 2 / 255: "adv-linf:radius=2/255"}


def cell(noise: str, breaker: str, accuracy: float, seed: int = 0, recipe: str = "sgd", **other: Any) -> Result:
    """Return a record under a breaker or a chain; with `curve`, of these (step, test, train)."""
    built, one = build_chain(DEMO, breaker), made(noise, "none", seed, accuracy, recipe=recipe)
    texts = {"breaker": "+".join(map(canonical_text, built)), "recipe": recipe}
    texts |= {"target": text("target", other["target"])} if "target" in other else {}
    marks = [CurvePoint(*point) for point in other.pop("curve", ())]
    names = {"key": f"{noise} {breaker} {seed} {recipe} {other}", "breaker": chain_label_in_suite(DEMO, built)}
    return structs.replace(one, parameters={**one.parameters, **texts}, curve=marks, **names, **other)


def drawn(results: Sequence[Result], start: str) -> list[Curves]:
    """Return the figures whose names start so."""
    return [one for one in make_curves(results)[0] if one.name.startswith(start)]


def means(one: Curves, noise: str, curve: str = "") -> dict[float, float]:
    own = one.points[(one.points["noise"] == noise) & (one.points["curve"] == curve)]
    return dict(zip(own["x"], own["mean"].round(9), strict=True))


def attacked(noise: str = "em", **other: Any) -> list[Result]:
    """Return a noise and the clean set under two radii and under none, two seeds but for the largest radius."""
    results = [
        cell(kind, "none", mean + off, seed, **other)
        for kind, mean in (("none", 0.9), (noise, 0.3))
        for seed, off in enumerate((-0.1, 0.1))
    ]
    results += [cell(noise, ATTACKS[1 / 255], value, seed, **other) for seed, value in enumerate((0.5, 0.6))]
    results += [cell("none", ATTACKS[1 / 255], value, seed, **other) for seed, value in enumerate((0.8, 0.8))]
    return [*results, cell(noise, ATTACKS[2 / 255], 0.7, 0, **other)]


def test_points_are_means_and_intervals_over_seeds_with_plain_training_at_radius_0() -> None:
    (one,) = drawn(attacked(), "radius")
    em = one.points[one.points["noise"] == "em"]
    assert list(em["x"]) == pytest.approx([0, 1 / 255, 2 / 255])
    assert list(em["mean"]) == pytest.approx([0.3, 0.55, 0.7])
    half = stats.t.ppf(0.975, 1) / math.sqrt(2)  # of two seeds, in deviations
    for bound, side in (("low", -1), ("high", 1)):
        widths = [side * (value - mean) for value, mean in zip(em[bound], em["mean"], strict=True)]
        assert widths[:2] == pytest.approx([0.1 * math.sqrt(2) * half, 0.05 * math.sqrt(2) * half], rel=0.1)
        assert math.isnan(widths[2]), "one seed has no interval"
    assert list(em["seeds"]) == [2, 2, 1]
    assert set(em["parameters"]) == {text("noise", "em")}
    assert one.ticks == {0: "0", 1 / 255: "1/255", 2 / 255: "2/255"}
    assert (one.title, one.setting) == (
        "Test accuracy against radius of adv-linf",
        "smallcnn on digits, recipe sgd",
    )


def test_the_clean_set_is_the_dashed_reference_and_comes_first() -> None:
    (one,) = drawn(attacked(), "radius")
    assert list(one.points["noise"]) == ["none"] * 2 + ["em"] * 3
    assert list(one.points["reference"]) == list(one.points["dashed"]) == [True] * 2 + [False] * 3
    assert means(one, "none") == pytest.approx({0: 0.9, 1 / 255: 0.8})


def test_a_noise_under_no_breaker_of_the_family_is_left_out() -> None:
    (one,) = drawn([*attacked(), cell("rem", "none", 0.2)], "radius")
    assert set(one.points["noise"]) == {"none", "em"}


def test_a_chain_starts_from_the_chain_without_the_attack() -> None:
    results = [cell("em", f"lowpass-median+{attack}", 0.5 + radius) for radius, attack in ATTACKS.items()]
    results += [cell("em", "lowpass-median", 0.4), cell("em", "none", 0.1)]
    (one,) = drawn(results, "radius_lowpass-median_adv-linf")
    assert means(one, "em") == pytest.approx({0: 0.4, 1 / 255: 0.5 + 1 / 255, 2 / 255: 0.5 + 2 / 255})
    assert one.title == "Test accuracy against radius of adv-linf, in lowpass-median+adv-linf"


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"target": "resnet18"}, "resnet18 on digits, recipe sgd"),
        ({"recipe": "sgd:steps=9"}, "smallcnn on digits, recipe sgd:steps=9"),
        ({"protected": 0.5}, "smallcnn on digits, 50% protected (mixed), recipe sgd"),
    ],
)
def test_what_cannot_be_compared_shares_no_figure(other: dict[str, Any], named: str) -> None:
    far = [
        structs.replace(one, test_accuracy=0.01)
        for one in attacked(**other)
        if one.noise != "none" or "protected" not in other
    ]
    found = drawn([*attacked(), *far], "radius")
    assert {one.setting for one in found} == {"smallcnn on digits, recipe sgd", named}
    assert len({one.name for one in found}) == 2
    assert [sorted(set(one.points[one.points["noise"] == "em"]["mean"].round(2))) for one in found] in (
        [[0.3, 0.55, 0.7], [0.01]],
        [[0.01], [0.3, 0.55, 0.7]],
    )


def test_other_data_share_no_figure_even_under_the_same_name() -> None:
    other = [
        structs.replace(one, key=f"b {one.key}", parameters={**one.parameters, "content": "b"}) for one in attacked()
    ]
    found = drawn([*attacked(), *other], "radius")
    assert [one.name for one in found] == ["radius_adv-linf_digits_smallcnn", "radius_adv-linf_digits_smallcnn-2"]
    assert all(set(one.points["seeds"]) == {1, 2} for one in found)


def test_a_share_has_the_whole_clean_set_for_reference_under_its_own_breakers() -> None:
    half = [one for one in attacked(protected=0.5) if one.noise != "none"]
    (one,) = [one for one in drawn([*attacked(), cell("none", "adv-linf", 0.6), *half], "radius") if "50" in one.name]
    assert means(one, "none") == pytest.approx({0: 0.9, 1 / 255: 0.8})


def test_accuracies_over_the_steps_are_means_of_the_curves_on_record() -> None:
    results = [
        cell("em", "adv-linf", 0.5, 0, curve=[(10, 0.2, 0.4), (20, 0.3, 0.9)]),
        cell("em", "adv-linf", 0.5, 1, curve=[(10, 0.4, 0.6), (20, 0.5, 1.0)]),
        cell("none", "adv-linf", 0.5, 0, curve=[(10, 0.7, 0.8), (20, 0.9, 0.9)]),
        cell("em", "none", 0.5, 0, curve=[(10, 0.0, 1.0)]),
        cell("em", "grayscale", 0.5, 0),
    ]
    found = {one.title.rpartition(" ")[2]: one for one in drawn(results, "steps")}
    assert set(found) == {"adv-linf", "none"}, "a figure for each breaker with curves"
    one = found["adv-linf"]
    assert means(one, "em", "clean test images") == pytest.approx({10: 0.3, 20: 0.4})
    assert means(one, "em", "training batches") == pytest.approx({10: 0.5, 20: 0.95})
    assert set(one.points[one.points["dashed"]]["curve"]) == {"training batches"}
    assert means(one, "none", "clean test images") == pytest.approx({10: 0.7, 20: 0.9})
    assert one.panels


def shared() -> list[Result]:
    """Return two shares of em, one of rem, and the clean images alone."""
    results = [cell("none", "adv-linf", 0.9), cell("em", "adv-linf", 0.2), cell("rem", "adv-linf", 0.1)]
    results += [cell("em", "adv-linf", value, seed, protected=0.5) for seed, value in enumerate((0.6, 0.8))]
    return [*results, *(cell("none", "adv-linf", 0.4, protected=share, kind="clean-only") for share in (0.5, 0.8))]


def test_shares_start_from_the_clean_set_and_are_beside_the_clean_images_alone() -> None:
    (one,) = drawn(shared(), "share")
    assert means(one, "em") == pytest.approx({0: 0.9, 0.5: 0.7, 1: 0.2})
    assert means(one, "none", "clean images alone") == pytest.approx({0: 0.9, 0.5: 0.4, 0.8: 0.4})
    assert set(one.points["noise"]) == {"none", "em"}, "rem has one share"
    assert set(one.points[one.points["dashed"]]["noise"]) == {"none"}
    assert one.ticks == {0: "0 %", 0.5: "50 %", 0.8: "80 %", 1: "100 %"}
    assert one.setting == "smallcnn on digits, recipe sgd"


def test_what_is_not_drawn_is_said_with_the_reason() -> None:
    found, lacking = make_curves([cell("em", "none", 0.5)])
    assert found == []
    assert lacking == [
        "smallcnn on digits, recipe sgd: no figure over a parameter: no parameter has two values",
        "smallcnn on digits, recipe sgd: no figure over the steps: the record has no curves",
        "smallcnn on digits, recipe sgd: no figure over the protected share: no noise has two shares",
    ]
    _, lacking = make_curves(attacked())
    assert not any("parameter" in line for line in lacking)


def test_a_noise_that_was_once_called_otherwise_is_one_curve() -> None:
    old = [structs.replace(one, noise="em:steps=100") if one.noise == "em" and one.seed else one for one in attacked()]
    (one,) = drawn(old, "radius")
    assert list(one.points[~one.points["reference"]]["seeds"]) == [2, 2, 1]


def test_the_order_of_the_record_changes_nothing() -> None:
    results = [*attacked(), *shared(), cell("em", "adv-linf", 0.5, 9, curve=[(10, 0.2, 0.4)])]
    one, other = make_curves(results), make_curves(reversed(results))
    assert [replace(each, points=None) for each in one[0]] == [replace(each, points=None) for each in other[0]]  # type: ignore[arg-type]
    assert one[1] == other[1]
    for mine, theirs in zip(one[0], other[0], strict=True):
        pd.testing.assert_frame_equal(mine.points, theirs.points, check_exact=True)
