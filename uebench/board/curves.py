"""The data of figures: accuracy against a breaker's parameter, training steps or the protected share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from typing import Any

import numpy as np
import pandas as pd
from msgspec import structs

from uebench.board.groups import comparable_groups, group_title
from uebench.board.intervals import confidence_interval, means_with_draws
from uebench.board.parameter_sweeps import breaker_families
from uebench.components.registry import idle_component
from uebench.components.spec import format_number
from uebench.storage.result import Result

POINT_COLUMNS = ["parameters", "reference", "curve", "dashed", "x"]
"""The columns that identify a point of a figure."""


@dataclass(frozen=True)
class Curves:
    """The data of one figure, from comparable results.

    `points` has one row per point: the `noise` by label and by canonical text (`parameters`), whether it is the clean
    set (`reference`), the name of the `curve` (empty: the noise's name), whether it is `dashed`, `x`, the `mean` of the
    accuracies in [0, 1], its 95 % interval (`low`, `high`; NaN for one seed), and the number of `seeds`. `axis`
    describes `x`; `ticks` has the text of its values, or is empty. With `panels` each noise has a panel. `name` is
    unique in a record and a valid file name. `breaker` and `parameter` name the parameter along `x`, if any.
    """

    name: str
    title: str
    axis: str
    points: pd.DataFrame
    ticks: Mapping[float, str] = field(default_factory=dict)
    panels: bool = False
    setting: str = ""
    breaker: str = ""
    parameter: str = ""


def make_curves(results: Iterable[Result]) -> tuple[list[Curves], list[str]]:
    """Return every figure that a record has data for, and for each missing kind of figure a line with the reason.

    A figure has one data set, target and recipe, and one protected share unless its x axis is the share.
    """
    records = sorted(results, key=lambda result: result.key)
    figures, missing = dict[str, Curves](), list[str]()

    def add(first: Result, new_figures: Sequence[Curves], reason: str) -> None:
        setting = f"{first.target} on {group_title(first)}"
        share = "" if first.protected == 1 else f"{first.protected:.0%} {first.kind}"
        for curves in new_figures:
            text = f"{curves.name} {first.dataset} {first.target} {share}".lower()
            stem = re.sub(r"[^a-z0-9.=-]+", "_", text).strip("_")
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            name = next(name for name in names if name not in figures)  # two recipes give the same stem
            figures[name] = replace(curves, name=name, setting=setting)
        if not new_figures:
            missing.append(f"{setting}: {reason}")

    for group in comparable_groups(records):
        first = group[0]
        same_share = [result for result in group if (result.protected, result.kind) == (first.protected, first.kind)]
        for part in _group_by(same_share, "target"):
            target, breakers = part[0].parameters["target"], {result.parameters["breaker"] for result in part}
            cells = [
                result
                for result in group
                if result.parameters["target"] == target and result.parameters["breaker"] in breakers
            ]
            add(part[0], parameter_curves(cells), "no figure over a parameter: no parameter has two values")
            add(part[0], training_curves(cells), "no figure over the steps: the record has no curves")
    for part in _group_by(records, "dataset", "content", "recipe", "target"):
        reason = "no figure over the protected share: no noise has two shares"
        add(structs.replace(part[0], protected=1.0), share_curves(part), reason)
    return list(figures.values()), missing


def parameter_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every family of breakers: test accuracy against the parameter that differs."""
    figures = []
    for family in breaker_families({result.parameters["breaker"]: result.breaker for result in cells}):
        x_values = {**family.idle, **family.values}
        noises = {result.parameters["noise"] for result in cells if result.parameters["breaker"] in family.values}
        points = _points(
            (result, "", _is_clean(result), x_values[result.parameters["breaker"]], result.test_accuracy)
            for result in cells
            if result.parameters["breaker"] in x_values and result.parameters["noise"] in noises
        )
        figures.append(
            Curves(
                name=f"{family.parameter} {family.label}",
                title=f"Test accuracy against {family.parameter} of {family.breaker}"
                + (f", in {family.label}" if family.label != family.breaker else ""),
                axis=family.axis,
                points=points,
                ticks={value: format_number(value) for value in points["x"].unique().tolist()},
                breaker=family.label,
                parameter=family.parameter,
            )
        )
    return figures


def training_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every breaker: accuracy on the test set and on the training batches over the steps."""
    figures = []
    for part in _group_by([result for result in cells if result.curve], "breaker"):
        points = _points(
            (result, curve, dashed, point.step, accuracy)
            for result in part
            for point in result.curve
            for curve, dashed, accuracy in (
                ("clean test images", False, point.test_accuracy),
                ("training batches", True, point.train_accuracy),
            )
        )
        breaker = part[0].breaker
        title = f"Training and test accuracy under {breaker}"
        figures.append(Curves(f"steps {breaker}", title, "training steps", points, panels=True))
    return figures


def share_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every breaker under which a noise has two shares: test accuracy against the protected share.

    The dashed curve is training on the unprotected images alone. At share 0 every curve has the value of the clean set.
    """
    figures = []
    for part in _group_by(cells, "breaker"):
        noise_results = [result for result in part if result.kind == "mixed" and not _is_clean(result)]
        shares: dict[str, set[float]] = {}
        for result in noise_results:
            shares.setdefault(result.parameters["noise"], set()).add(result.protected)
        several_shares = [result for result in noise_results if len(shares[result.parameters["noise"]]) > 1]
        clean_only = [result for result in part if result.kind == "clean-only"]
        clean_set = [result for result in part if result.kind == "mixed" and _is_clean(result)]
        if not several_shares:
            continue
        rows = [(result, "", False, result.protected, result.test_accuracy) for result in several_shares]
        rows += [(result, "clean images alone", True, result.protected, result.test_accuracy) for result in clean_only]
        first_rows = {row[0].parameters["noise"]: row for row in rows}.values()
        rows += [
            (first, curve, dashed, 0.0, result.test_accuracy)
            for first, curve, dashed, *_ in first_rows
            for result in clean_set
        ]
        points = _points(rows)
        breaker = part[0].breaker
        ticks = {share: f"{100 * share:g} %" for share in points["x"].unique().tolist()}
        title = f"Test accuracy against the protected share, under {breaker}"
        axis = "share of the training images that is protected"
        figures.append(Curves(f"share {breaker}", title, axis, points, ticks))
    return figures


def _points(rows: Iterable[tuple[Result, str, bool, float, float]]) -> pd.DataFrame:
    """Return the mean and 95 % interval over seeds of rows (result, curve, dashed, x, accuracy), the clean set first.

    Columns as in `Curves.points`.
    """
    labels, accuracies = dict[str, str](), dict[tuple[Any, ...], dict[int, float]]()
    for result, *point, accuracy in rows:
        noise = result.parameters["noise"]
        labels[noise] = result.noise
        accuracies.setdefault((noise, _is_clean(result), *point), {})[result.seed] = accuracy
    point_rows = [(*point, *_mean_and_interval(values)) for point, values in accuracies.items()]
    points = pd.DataFrame(point_rows, columns=[*POINT_COLUMNS, "mean", "low", "high", "seeds"])
    points = points.astype({"mean": float, "low": float, "high": float})
    points.insert(0, "noise", points["parameters"].map(labels))
    order = ["reference", "noise", "parameters", "dashed", "x", "curve"]
    return points.sort_values(order, ascending=[column != "reference" for column in order], ignore_index=True)


def _mean_and_interval(values: Mapping[int, float]) -> tuple[float, float | None, float | None, int]:
    """Return the mean of accuracies (by seed), the bounds of its interval, and the number of seeds."""
    seeds = tuple(sorted(values))
    means = means_with_draws(np.array([values[seed] for seed in seeds]), seeds)
    return float(means[0]), *confidence_interval(means, 0, 1), len(seeds)


def _group_by(records: Iterable[Result], *kinds: str) -> Iterator[list[Result]]:
    """Yield groups of results with the same components of these kinds, sorted by canonical text."""

    def key(result: Result) -> tuple[str, ...]:
        return tuple(result.parameters[kind] for kind in kinds)

    return (list(group) for _, group in groupby(sorted(records, key=key), key))


def _is_clean(result: Result) -> bool:
    return result.parameters["noise"] == idle_component("noise")
