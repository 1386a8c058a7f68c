"""The names that a suite gives to jobs and results, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uebench import spec
from uebench.plan import Cell, Job, Protect, Trial, Victim
from uebench.selection import Selection, describe, describe_chain


def noise(selection: Selection, job: Protect) -> str:
    """Return the name of the noise that a job makes."""
    return describe(selection.suite, "noise", job.noise)


def name(selection: Selection, job: Job) -> str:
    """Return a job's name for people."""
    suite = selection.suite
    if isinstance(job, Victim):
        return f"training {describe(suite, 'target', job.target)} on clean images for noises, seed {job.seed}"
    if isinstance(job, Trial):
        return f"trial of {name(selection, job.cell)}"
    if isinstance(job, Cell):
        inner = f"{describe_chain(suite, job.chain)} on {describe(suite, 'target', job.target)}"
        share = "" if job.protected == 1 and job.kind == "mixed" else f" ({job.protected:.0%} {job.kind})"
        return f"{describe(suite, 'noise', job.protect.noise)}{share} / {inner}, seed {job.protect.seed}"
    return f"making {describe(suite, 'noise', job.noise)} for {describe(suite, 'dataset', job.source)}, seed {job.seed}"


def names(part: Mapping[str, Selection], jobs: Sequence[Job]) -> dict[str, str]:
    """Return the names of jobs by key; `part` has the selection of each.

    What a name leaves out, the data set or the recipe, is told where jobs that share it differ in that.
    """
    found = {job.key: name(part[job.key], job) for job in jobs}
    for detail in (_dataset, _recipe):
        count = Counter(found.values())
        details = {job.key: detail(part[job.key], job) for job in jobs if count[found[job.key]] > 1}
        told = {found[key]: set[str]() for key in details}
        for key, one in details.items():
            told[found[key]].add(one)
        found |= {key: f"{found[key]}, {one}" for key, one in details.items() if len(told[found[key]]) > 1}
    return found


def _dataset(selection: Selection, job: Job) -> str:
    source = job.source if isinstance(job, Victim | Protect) else job.protect.source
    return describe(selection.suite, "dataset", source)


def _recipe(selection: Selection, job: Job) -> str:
    return f"recipe {spec.label(selection.recipe)}"


@dataclass(frozen=True)
class Labels:
    """The names of a cell's parts; records and published numbers are matched by them."""

    dataset: str
    noise: str
    breaker: str
    target: str
    protected: float
    kind: str
    recipe: str


def labels(selection: Selection, cell: Cell) -> Labels:
    """Return the names that a suite gives a cell's parts."""
    suite = selection.suite
    return Labels(
        dataset=describe(suite, "dataset", cell.protect.source),
        noise=describe(suite, "noise", cell.protect.noise),
        breaker=describe_chain(suite, cell.chain),
        target=describe(suite, "target", cell.target),
        protected=cell.protected,
        kind=cell.kind,
        recipe=spec.label(cell.recipe),
    )
