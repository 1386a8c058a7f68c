"""Runs a sample of a bundle's cells again: draws it, prepares its jobs, and compares the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from uebench.board.agreement import Agreement, is_whole_count, run_deviation
from uebench.components.component import Component
from uebench.components.errors import UserError
from uebench.components.interfaces import Noise, Source, Target
from uebench.planning.plan import Cell, Plan, plan_cells, plan_protect
from uebench.planning.selection import Selection, resolve_recipe
from uebench.storage.atomic_files import sha256_hex
from uebench.storage.result import Result
from uebench.storage.store import Store
from uebench.submission.bundle import Bundle
from uebench.submission.bundle_checks import same_cell
from uebench.submission.entry import Entry
from uebench.submission.restore_components import NotInstalled, restore_chain, restore_component


def draw_sample(results: Sequence[Result], sha256: str, count: int, seed: int) -> list[Result]:
    """Return `count` results, or all, in an order that follows from the bundle's SHA-256 and the seed.

    The submitter did not know the seed.
    """
    return sorted(results, key=lambda result: sha256_hex(f"{seed}/{sha256}/{result.key}".encode()))[:count]


@dataclass(frozen=True)
class RerunPlan:
    """The cells to run again, with the components that are installed here, and the number of test images."""

    selection: Selection
    plan: Plan
    images: int


def prepare_rerun(entry: Entry, drawn: Sequence[Result], given: Mapping[str, Component], store: Store) -> RerunPlan:
    """Return the jobs that run results again; raises `UserError` where components or data are not available here.

    `given` has components by canonical text, for those that need more than that (a path).
    """
    from uebench.jobs.datasets import content_fingerprint, load_dataset, require_test_split  # loads torch

    source = cast(Source, restore_component("dataset", entry.dataset, given))
    if content_fingerprint(source, store) != entry.content:
        raise NotInstalled(f"data set {source.name} has other content here than {entry.content[:16]!r}")
    trained = resolve_recipe(entry.part)
    cells = []
    for result in drawn:
        noise = cast(Noise, restore_component("noise", result.parameters["noise"], given))
        job = plan_protect(source, entry.content, noise, trained, result.seed)
        target = cast(Target, restore_component("target", result.parameters["target"], given))
        cells.append(Cell(job, restore_chain(result.parameters["breaker"], given), target, trained))
    selection = Selection(
        suite=entry.part,
        sources=[source],
        noises=list({cell.protect.noise: None for cell in cells}),
        chains=list({cell.chain: None for cell in cells}),
        targets=list({cell.target: None for cell in cells}),
        recipe=trained,
        seeds=sorted({result.seed for result in drawn}),
    )
    images = len(require_test_split(source, load_dataset(source, entry.content, store)).test.labels)
    return RerunPlan(selection, plan_cells(cells), images)


def check_counts(bundle: Bundle, images: int) -> None:
    """Raise `UserError` where an accuracy of a bundle is not a whole number of `images` test images."""
    for result in bundle.results:
        for point in result.curve:
            if not is_whole_count(point.test_accuracy, images):
                raise UserError(
                    f"result {result.key}: test accuracy {point.test_accuracy!r} is not a whole number of "
                    f"{images} images"
                )


def compare_rerun(bundle: Bundle, rerun: Mapping[str, Result], images: int) -> list[Agreement]:
    """Return the agreement of results, by key, with a bundle, by the spread of each cell over the bundle's seeds."""
    agreements = []
    for result in bundle.results:
        if result.key in rerun:
            same = [other.test_accuracy for other in bundle.results if same_cell(result, other)]
            name = f"{result.noise} / {result.breaker} on {result.target}, seed {result.seed}"
            agreements.append(
                Agreement(name, result.test_accuracy, rerun[result.key].test_accuracy, run_deviation(same, images))
            )
    return agreements
