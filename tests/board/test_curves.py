"""Curves from constructed results whose means, intervals and groups are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from msgspec import structs
from scipy import stats

from tests.board.test_tables import DEMO, make_result, text
from uebench.board.curves import Curves, make_curves
from uebench.components.spec import canonical_text
from uebench.planning.selection import build_chain, chain_label_in_suite
from uebench.storage.result import CurvePoint, Result

ATTACKS = {1 / 255: "adv-linf:radius=1/255", 2 / 255: "adv-linf:radius=2/255"}


def cell(noise: str, breaker: str, accuracy: float, seed: int = 0, recipe: str = "sgd", **other: Any) -> Result:
    """Return a result under a breaker or a chain; `curve` has points (step, test accuracy, training accuracy)."""
    chain, plain = build_chain(DEMO, breaker), make_result(noise, "none", seed, accuracy, recipe=recipe)
    texts = {"breaker": "+".join(map(canonical_text, chain)), "recipe": recipe}
    texts |= {"target": text("target", other["target"])} if "target" in other else {}
    points = [CurvePoint(*point) for point in other.pop("curve", ())]
    names = {"key": f"{noise} {breaker} {seed} {recipe} {other}", "breaker": chain_label_in_suite(DEMO, chain)}
    return structs.replace(plain, parameters={**plain.parameters, **texts}, curve=points, **names, **other)


def figures(results: Sequence[Result], start: str) -> list[Curves]:
    """Return the figures whose names start with `start`."""
    return [curves for curves in make_curves(results)[0] if curves.name.startswith(start)]


def means(curves: Curves, noise: str, curve: str = "") -> dict[float, float]:
    """Return the means of one curve of a noise, by x."""
    points = curves.points[(curves.points["noise"] == noise) & (curves.points["curve"] == curve)]
    return dict(zip(points["x"], points["mean"].round(9), strict=True))


def attacked(noise: str = "em", **other: Any) -> list[Result]:
    """Return a noise and the clean set after plain training and under two radii; the largest has only one seed."""
    results = [
        cell(name, "none", mean + offset, seed, **other)
        for name, mean in (("none", 0.9), (noise, 0.3))
        for seed, offset in enumerate((-0.01, 0.01))
    ]
    results += [cell(noise, ATTACKS[1 / 255], value, seed, **other) for seed, value in enumerate((0.545, 0.555))]
    results += [cell("none", ATTACKS[1 / 255], value, seed, **other) for seed, value in enumerate((0.8, 0.8))]
    return [*results, cell(noise, ATTACKS[2 / 255], 0.7, 0, **other)]


def test_points_are_means_and_intervals_over_seeds_with_plain_training_at_radius_0() -> None:
    (curves,) = figures(attacked(), "radius")
    em = curves.points[curves.points["noise"] == "em"]
    assert list(em["x"]) == pytest.approx([0, 1 / 255, 2 / 255])
    assert list(em["mean"]) == pytest.approx([0.3, 0.55, 0.7])
    half_width = stats.t.ppf(0.975, 1) / math.sqrt(2)  # of two seeds, in standard deviations
    for bound, sign in (("low", -1), ("high", 1)):
        widths = [sign * (value - mean) for value, mean in zip(em[bound], em["mean"], strict=True)]
        assert widths[:2] == pytest.approx(
            [0.01 * math.sqrt(2) * half_width, 0.005 * math.sqrt(2) * half_width], rel=0.1
        )
        assert math.isnan(widths[2]), "one seed has no interval"
    assert list(em["seeds"]) == [2, 2, 1]
    assert set(em["parameters"]) == {text("noise", "em")}
    assert curves.ticks == {0: "0", 1 / 255: "1/255", 2 / 255: "2/255"}
    assert (curves.title, curves.setting) == (
        "Test accuracy against radius of adv-linf",
        "smallcnn on digits, recipe sgd",
    )


def test_the_clean_set_is_the_dashed_reference_and_comes_first() -> None:
    (curves,) = figures(attacked(), "radius")
    assert list(curves.points["noise"]) == ["none"] * 2 + ["em"] * 3
    assert list(curves.points["reference"]) == list(curves.points["dashed"]) == [True] * 2 + [False] * 3
    assert means(curves, "none") == pytest.approx({0: 0.9, 1 / 255: 0.8})


def test_a_noise_without_a_breaker_of_the_family_is_not_in_its_figure() -> None:
    (curves,) = figures([*attacked(), cell("rem", "none", 0.2)], "radius")
    assert set(curves.points["noise"]) == {"none", "em"}


def test_a_curve_of_a_chain_starts_at_the_chain_without_the_attack() -> None:
    results = [cell("em", f"lowpass-median+{attack}", 0.5 + radius) for radius, attack in ATTACKS.items()]
    results += [cell("em", "lowpass-median", 0.4), cell("em", "none", 0.1)]
    (curves,) = figures(results, "radius_lowpass-median_adv-linf")
    assert means(curves, "em") == pytest.approx({0: 0.4, 1 / 255: 0.5 + 1 / 255, 2 / 255: 0.5 + 2 / 255})
    assert curves.title == "Test accuracy against radius of adv-linf, in lowpass-median+adv-linf"


@pytest.mark.parametrize(
    ("other", "setting"),
    [
        ({"target": "resnet18"}, "resnet18 on digits, recipe sgd"),
        ({"recipe": "sgd:steps=9"}, "smallcnn on digits, recipe sgd:steps=9"),
        ({"protected": 0.5}, "smallcnn on digits, 50% protected (mixed), recipe sgd"),
    ],
)
def test_results_that_are_not_comparable_share_no_figure(other: dict[str, Any], setting: str) -> None:
    not_comparable = [
        structs.replace(result, test_accuracy=0.01)
        for result in attacked(**other)
        if result.noise != "none" or "protected" not in other
    ]
    found = figures([*attacked(), *not_comparable], "radius")
    assert {curves.setting for curves in found} == {"smallcnn on digits, recipe sgd", setting}
    assert len({curves.name for curves in found}) == 2
    em_means = [curves.points[curves.points["noise"] == "em"]["mean"] for curves in found]
    assert [sorted(set(values.round(2))) for values in em_means] in (
        [[0.3, 0.55, 0.7], [0.01]],
        [[0.01], [0.3, 0.55, 0.7]],
    )


def test_different_data_with_one_name_share_no_figure() -> None:
    other = [
        structs.replace(result, key=f"b {result.key}", parameters={**result.parameters, "content": "b"})
        for result in attacked()
    ]
    found = figures([*attacked(), *other], "radius")
    assert [curves.name for curves in found] == ["radius_adv-linf_digits_smallcnn", "radius_adv-linf_digits_smallcnn-2"]
    assert all(set(curves.points["seeds"]) == {1, 2} for curves in found)


def test_the_reference_of_a_share_is_the_clean_set_under_the_same_breakers() -> None:
    half = [result for result in attacked(protected=0.5) if result.noise != "none"]
    found = figures([*attacked(), cell("none", "adv-linf", 0.6), *half], "radius")
    (curves,) = [curves for curves in found if "50" in curves.name]
    assert means(curves, "none") == pytest.approx({0: 0.9, 1 / 255: 0.8})


def test_accuracies_over_the_steps_are_means_of_the_curves_in_the_record() -> None:
    results = [
        cell("em", "adv-linf", 0.5, 0, curve=[(10, 0.2, 0.4), (20, 0.3, 0.9)]),
        cell("em", "adv-linf", 0.5, 1, curve=[(10, 0.4, 0.6), (20, 0.5, 1.0)]),
        cell("none", "adv-linf", 0.5, 0, curve=[(10, 0.7, 0.8), (20, 0.9, 0.9)]),
        cell("em", "none", 0.5, 0, curve=[(10, 0.0, 1.0)]),
        cell("em", "grayscale", 0.5, 0),
    ]
    by_breaker = {curves.title.rpartition(" ")[2]: curves for curves in figures(results, "steps")}
    assert set(by_breaker) == {"adv-linf", "none"}, "a figure for each breaker with curves"
    curves = by_breaker["adv-linf"]
    assert means(curves, "em", "clean test images") == pytest.approx({10: 0.3, 20: 0.4})
    assert means(curves, "em", "training batches") == pytest.approx({10: 0.5, 20: 0.95})
    assert set(curves.points[curves.points["dashed"]]["curve"]) == {"training batches"}
    assert means(curves, "none", "clean test images") == pytest.approx({10: 0.7, 20: 0.9})
    assert curves.panels


def two_shares() -> list[Result]:
    """Return results of em with two shares, of rem with one, and of the clean images alone."""
    results = [cell("none", "adv-linf", 0.9), cell("em", "adv-linf", 0.2), cell("rem", "adv-linf", 0.1)]
    results += [cell("em", "adv-linf", value, seed, protected=0.5) for seed, value in enumerate((0.6, 0.8))]
    return [*results, *(cell("none", "adv-linf", 0.4, protected=share, kind="clean-only") for share in (0.5, 0.8))]


def test_curves_over_shares_start_at_the_clean_set_beside_that_of_clean_images_alone() -> None:
    (curves,) = figures(two_shares(), "share")
    assert means(curves, "em") == pytest.approx({0: 0.9, 0.5: 0.7, 1: 0.2})
    assert means(curves, "none", "clean images alone") == pytest.approx({0: 0.9, 0.5: 0.4, 0.8: 0.4})
    assert set(curves.points["noise"]) == {"none", "em"}, "rem has one share"
    assert set(curves.points[curves.points["dashed"]]["noise"]) == {"none"}
    assert curves.ticks == {0: "0 %", 0.5: "50 %", 0.8: "80 %", 1: "100 %"}
    assert curves.setting == "smallcnn on digits, recipe sgd"


def test_a_missing_figure_is_listed_with_the_reason() -> None:
    found, missing = make_curves([cell("em", "none", 0.5)])
    assert found == []
    assert missing == [
        "smallcnn on digits, recipe sgd: no figure over a parameter: no parameter has two values",
        "smallcnn on digits, recipe sgd: no figure over the steps: the record has no curves",
        "smallcnn on digits, recipe sgd: no figure over the protected share: no noise has two shares",
    ]
    _, missing = make_curves(attacked())
    assert not any("parameter" in line for line in missing)


def test_a_noise_with_two_labels_is_one_curve() -> None:
    results = [
        structs.replace(result, noise="em:steps=100") if result.noise == "em" and result.seed else result
        for result in attacked()
    ]
    (curves,) = figures(results, "radius")
    assert list(curves.points[~curves.points["reference"]]["seeds"]) == [2, 2, 1]


def test_the_order_of_the_record_changes_nothing() -> None:
    results = [*attacked(), *two_shares(), cell("em", "adv-linf", 0.5, 9, curve=[(10, 0.2, 0.4)])]
    all_curves, missing = make_curves(results)
    other_curves, other_missing = make_curves(reversed(results))
    assert missing == other_missing
    for curves, other in zip(all_curves, other_curves, strict=True):
        assert replace(curves, points=None) == replace(other, points=None)  # type: ignore[arg-type]
        pd.testing.assert_frame_equal(curves.points, other.points, check_exact=True)
