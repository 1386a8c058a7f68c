"""The data of figures: accuracy against a breaker's parameter, against training steps, and the protected share."""

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
    """The data of one figure, of results that may be compared.

    `points` has one row per point: the `noise` by label and by canonical text (`parameters`), whether it is the clean
    set (`reference`), the name of the `curve` where it is not the noise's, whether it is `dashed`, `x`, the `mean` of
    the accuracies in [0, 1], its 95 % interval (`low`, `high`; NaN for one seed), and the number of `seeds`. `axis`
    describes `x`; `ticks` has the text of its values, if it matters. With `panels` each noise has its own panel.
    `name` is unique in a record and a valid file name. `breaker` and `parameter` name the parameter along `x`, if any.
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
    """Return every figure that a record has data for, and for each kind of figure that it lacks a line with the reason.

    A figure is of one data set, target and recipe, and of one protected share unless it is about shares.
    """
    records = sorted(results, key=lambda result: result.key)
    figures, lacking = dict[str, Curves](), list[str]()

    def add(first: Result, found: Sequence[Curves], reason: str) -> None:
        setting = f"{first.target} on {group_title(first)}"
        share = "" if first.protected == 1 else f"{first.protected:.0%} {first.kind}"
        for curves in found:
            stem = re.sub(r"[^a-z0-9.=-]+", "_", f"{curves.name} {first.dataset} {first.target} {share}".lower()).strip(
                "_"
            )
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            name = next(name for name in names if name not in figures)  # recipes may be all that differs
            figures[name] = replace(curves, name=name, setting=setting)
        if not found:
            lacking.append(f"{setting}: {reason}")

    for group in comparable_groups(records):
        own = [result for result in group if (result.protected, result.kind) == (group[0].protected, group[0].kind)]
        for part in _group_by(own, "target"):
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
    return list(figures.values()), lacking


def parameter_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every family of breakers: test accuracy against the number that differs."""
    found = []
    for family in breaker_families({result.parameters["breaker"]: result.breaker for result in cells}):
        numbers = {**family.idle, **family.values}
        noises = {result.parameters["noise"] for result in cells if result.parameters["breaker"] in family.values}
        points = _points(
            (result, "", _is_clean(result), numbers[result.parameters["breaker"]], result.test_accuracy)
            for result in cells
            if result.parameters["breaker"] in numbers and result.parameters["noise"] in noises
        )
        found.append(
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
    return found


def training_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every breaker: accuracy on the test set and on the training batches over the steps."""
    found = []
    for part in _group_by([result for result in cells if result.curve], "breaker"):
        points = _points(
            (result, name, dashed, mark.step, accuracy)
            for result in part
            for mark in result.curve
            for name, dashed, accuracy in (
                ("clean test images", False, mark.test_accuracy),
                ("training batches", True, mark.train_accuracy),
            )
        )
        breaker = part[0].breaker
        title = f"Training and test accuracy under {breaker}"
        found.append(Curves(f"steps {breaker}", title, "training steps", points, panels=True))
    return found


def share_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every breaker under which a noise has two shares: test accuracy against the protected share.

    The dashed curve is of the clean images alone, as many as each share leaves. Share 0 is the clean set.
    """
    found = []
    for part in _group_by(cells, "breaker"):
        mixed = [result for result in part if result.kind == "mixed" and not _is_clean(result)]
        shares: dict[str, set[float]] = {}
        for result in mixed:
            shares.setdefault(result.parameters["noise"], set()).add(result.protected)
        several = [result for result in mixed if len(shares[result.parameters["noise"]]) > 1]
        alone = [result for result in part if result.kind == "clean-only"]
        whole = [result for result in part if result.kind == "mixed" and _is_clean(result)]
        if not several:
            continue
        rows = [(result, "", False, result.protected, result.test_accuracy) for result in several]
        rows += [(result, "clean images alone", True, result.protected, result.test_accuracy) for result in alone]
        starts = {row[0].parameters["noise"]: row for row in rows}.values()
        rows += [
            (first, curve, dashed, 0.0, result.test_accuracy) for first, curve, dashed, *_ in starts for result in whole
        ]
        points = _points(rows)
        breaker = part[0].breaker
        ticks = {share: f"{100 * share:g} %" for share in points["x"].unique().tolist()}
        title = f"Test accuracy against the protected share, under {breaker}"
        found.append(Curves(f"share {breaker}", title, "share of the training images that is protected", points, ticks))
    return found


def _points(rows: Iterable[tuple[Result, str, bool, float, float]]) -> pd.DataFrame:
    """Return mean and 95 % interval over seeds of rows (result, curve, dashed, x, accuracy); the clean set is first."""
    labels, accuracies = dict[str, str](), dict[tuple[Any, ...], dict[int, float]]()
    for result, *point, accuracy in rows:
        noise = result.parameters["noise"]
        labels[noise] = result.noise
        accuracies.setdefault((noise, _is_clean(result), *point), {})[result.seed] = accuracy
    table = [(*point, *_mean_and_interval(values)) for point, values in accuracies.items()]
    points = pd.DataFrame(table, columns=[*POINT_COLUMNS, "mean", "low", "high", "seeds"])
    points = points.astype({"mean": float, "low": float, "high": float})
    points.insert(0, "noise", points["parameters"].map(labels))
    order = ["reference", "noise", "parameters", "dashed", "x", "curve"]
    return points.sort_values(order, ascending=[column != "reference" for column in order], ignore_index=True)


def _mean_and_interval(values: Mapping[int, float]) -> tuple[float, float | None, float | None, int]:
    """Return the mean of accuracies by seed, the bounds of its interval, and the number of seeds."""
    seeds = tuple(sorted(values))
    drawn = means_with_draws(np.array([values[seed] for seed in seeds]), seeds)
    return float(drawn[0]), *confidence_interval(drawn), len(seeds)


def _group_by(records: Iterable[Result], *kinds: str) -> Iterator[list[Result]]:
    """Yield the results that agree in the canonical texts of components of these kinds, in the order of the texts."""

    def key(result: Result) -> tuple[str, ...]:
        return tuple(result.parameters[kind] for kind in kinds)

    return (list(group) for _, group in groupby(sorted(records, key=key), key))


def _is_clean(result: Result) -> bool:
    return result.parameters["noise"] == idle_component("noise")
