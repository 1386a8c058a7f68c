"""Runs a sample of a bundle's cells again: which ones, with which components, and what comes of the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from uebench import plan as planning
from uebench.agreement import Agreement, counts, spread
from uebench.api import Noise, Source, Target
from uebench.bundle import Bundle
from uebench.component import Component
from uebench.data import complete, fingerprint, load
from uebench.entry import Entry
from uebench.errors import UserError
from uebench.files import digest
from uebench.plan import Cell, Plan
from uebench.restore import NotHere, restore, restore_chain
from uebench.result import Result
from uebench.selection import Selection, recipe_of
from uebench.store import Store
from uebench.submission import twin


def sample(results: Sequence[Result], bundle: str, count: int, seed: int) -> list[Result]:
    """Return so many results, or all, in an order that follows from the bundle's SHA-256 and the seed.

    Whoever made the bundle did not know the seed.
    """
    return sorted(results, key=lambda one: digest(f"{seed}/{bundle}/{one.key}".encode()))[:count]


@dataclass(frozen=True)
class Rerun:
    """The cells to run again, with the components as they are installed here, and the number of test images."""

    selection: Selection
    plan: Plan
    images: int


def prepare(made: Entry, chosen: Sequence[Result], given: Mapping[str, Component], store: Store) -> Rerun:
    """Return the jobs that run results again; raises `UserError` where components or data are not here.

    `given` has components by canonical text, for what no text alone makes (a path).
    """
    source = cast(Source, restore("dataset", made.dataset, given))
    if fingerprint(source, store) != made.content:
        raise NotHere(f"data set {source.name} has other content here than {made.content[:16]!r}")
    trained = recipe_of(made.part)
    cells = []
    for one in chosen:
        noise = cast(Noise, restore("noise", one.parameters["noise"], given))
        job = planning.protect(source, made.content, noise, trained, one.seed)
        target = cast(Target, restore("target", one.parameters["target"], given))
        cells.append(Cell(job, restore_chain(one.parameters["breaker"], given), target, trained))
    selection = Selection(
        suite=made.part,
        sources=[source],
        noises=list({cell.protect.noise: None for cell in cells}),
        chains=list({cell.chain: None for cell in cells}),
        targets=list({cell.target: None for cell in cells}),
        recipe=trained,
        seeds=sorted({one.seed for one in chosen}),
    )
    images = len(complete(source, load(source, made.content, store)).test.labels)
    return Rerun(selection, planning.of(cells), images)


def check_counts(found: Bundle, images: int) -> None:
    """Raise `UserError` where an accuracy of a bundle is no whole number of so many test images."""
    for one in found.results:
        for point in one.curve:
            if not counts(point.test_accuracy, images):
                raise UserError(
                    f"result {one.key}: test accuracy {point.test_accuracy!r} is no whole number of {images} images"
                )


def compare(found: Bundle, again: Mapping[str, Result], images: int) -> list[Agreement]:
    """Return how results by key agree with what a bundle claims, by the spread of each cell over the bundle's seeds."""
    agreements = []
    for one in found.results:
        if one.key in again:
            same = [other.test_accuracy for other in found.results if twin(one, other)]
            name = f"{one.noise} / {one.breaker} on {one.target}, seed {one.seed}"
            agreements.append(Agreement(name, one.test_accuracy, again[one.key].test_accuracy, spread(same, images)))
    return agreements
