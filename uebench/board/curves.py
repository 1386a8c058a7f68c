"""Turns the results on record into curves: accuracy against a breaker's parameter, training steps, protected share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from typing import Any

import pandas as pd
from msgspec import structs

from uebench.board.groups import comparable_groups, group_title
from uebench.board.parameter_sweeps import breaker_families
from uebench.components.registry import idle_component
from uebench.components.spec import format_number
from uebench.storage.result import Result

POINT_COLUMNS = ["parameters", "reference", "curve", "dashed", "x"]
"""What tells the points of a figure apart."""


@dataclass(frozen=True)
class Curves:
    """What one figure shows, of results that may be compared.

    `points` has one row a point: the `noise` by its label and by its canonical text (`parameters`), whether it is the
    clean set (`reference`), the name of the `curve` where that is not the noise's, whether it is `dashed`, `x`, and
    the `mean` and `deviation` of the accuracies, in [0, 1], over so many `seeds`; one seed has no deviation (NaN).
    `axis` says what `x` is, and `ticks` how its values are written; without them any will do. With `panels` each noise
    has a panel of its own. `name` is unique in a record and fit for a file.
    """

    name: str
    title: str
    axis: str
    points: pd.DataFrame
    ticks: Mapping[float, str] = field(default_factory=dict)
    panels: bool = False
    setting: str = ""


def make_curves(results: Iterable[Result]) -> tuple[list[Curves], list[str]]:
    """Return every figure that a record has the data for, and a line for each kind of figure that it lacks, and why.

    A figure is of one data set, target and recipe, and of one protected share unless that is what it is about.
    """
    records = sorted(results, key=lambda result: result.key)
    drawn, lacking = dict[str, Curves](), list[str]()

    def add(one: Result, found: Sequence[Curves], reason: str) -> None:
        setting = f"{one.target} on {group_title(one)}"
        share = "" if one.protected == 1 else f"{one.protected:.0%} {one.kind}"
        for curves in found:
            stem = re.sub(r"[^a-z0-9.=-]+", "_", f"{curves.name} {one.dataset} {one.target} {share}".lower()).strip("_")
            names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
            name = next(name for name in names if name not in drawn)  # recipes may be all that differs
            drawn[name] = replace(curves, name=name, setting=setting)
        if not found:
            lacking.append(f"{setting}: {reason}")

    for group in comparable_groups(records):
        own = [result for result in group if (result.protected, result.kind) == (group[0].protected, group[0].kind)]
        for part in _parts(own, "target"):
            target, breakers = part[0].parameters["target"], {result.parameters["breaker"] for result in part}
            cells = [
                result
                for result in group
                if result.parameters["target"] == target and result.parameters["breaker"] in breakers
            ]
            add(part[0], parameter_curves(cells), "no figure over a parameter, for want of two values of one")
            add(part[0], training_curves(cells), "no figure over the steps, for want of curves on record")
    for part in _parts(records, "dataset", "content", "recipe", "target"):
        reason = "no figure over the protected share, for want of a noise with two shares"
        add(structs.replace(part[0], protected=1.0), share_curves(part), reason)
    return list(drawn.values()), lacking


def parameter_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every family of breakers: test accuracy against the number that differs."""
    found = []
    for family in breaker_families({result.parameters["breaker"]: result.breaker for result in cells}):
        places = {**family.idle, **family.values}
        noises = {result.parameters["noise"] for result in cells if result.parameters["breaker"] in family.values}
        points = _points(
            (result, "", _clean(result), places[result.parameters["breaker"]], result.test_accuracy)
            for result in cells
            if result.parameters["breaker"] in places and result.parameters["noise"] in noises
        )
        found.append(
            Curves(
                name=f"{family.parameter} {family.label}",
                title=f"Test accuracy against {family.parameter} of {family.breaker}"
                + (f", in {family.label}" if family.label != family.breaker else ""),
                axis=family.axis,
                points=points,
                ticks={value: format_number(value) for value in points["x"].unique().tolist()},
            )
        )
    return found


def training_curves(cells: Sequence[Result]) -> list[Curves]:
    """Return a figure for every breaker: accuracy on the test set and on the training batches over the steps."""
    found = []
    for part in _parts([result for result in cells if result.curve], "breaker"):
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
    for part in _parts(cells, "breaker"):
        mixed = [result for result in part if result.kind == "mixed" and not _clean(result)]
        shares: dict[str, set[float]] = {}
        for result in mixed:
            shares.setdefault(result.parameters["noise"], set()).add(result.protected)
        several = [result for result in mixed if len(shares[result.parameters["noise"]]) > 1]
        alone = [result for result in part if result.kind == "clean-only"]
        whole = [result for result in part if result.kind == "mixed" and _clean(result)]
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
    """Return mean and deviation over seeds of rows (result, curve, dashed, x, accuracy); the clean set comes first."""
    names, table = dict[str, str](), list[tuple[Any, ...]]()
    for result, *point in rows:
        noise = result.parameters["noise"]
        names[noise] = result.noise
        table.append((noise, _clean(result), *point))
    found = pd.DataFrame(table, columns=[*POINT_COLUMNS, "accuracy"]).groupby(POINT_COLUMNS)["accuracy"]
    points = found.agg(mean="mean", deviation="std", seeds="count").reset_index()
    points.insert(0, "noise", points["parameters"].map(names))
    order = ["reference", "noise", "parameters", "dashed", "x"]
    return points.sort_values(order, ascending=[column != "reference" for column in order], ignore_index=True)


def _parts(records: Iterable[Result], *texts: str) -> Iterator[list[Result]]:
    """Yield the results that agree in the canonical texts of these components, in the order of the texts."""

    def key(one: Result) -> tuple[str, ...]:
        return tuple(one.parameters[text] for text in texts)

    return (list(part) for _, part in groupby(sorted(records, key=key), key))


def _clean(one: Result) -> bool:
    return one.parameters["noise"] == idle_component("noise")
