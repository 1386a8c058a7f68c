"""The names of jobs and results, for people, in the words of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uebench.components.spec import component_label
from uebench.planning.plan import Cell, Job, Protect, Trial, Victim
from uebench.planning.selection import Selection, chain_label_in_suite, label_in_suite


def noise_name(selection: Selection, job: Protect) -> str:
    """Return the name of the noise that a job makes."""
    return label_in_suite(selection.suite, "noise", job.noise)


def job_name(selection: Selection, job: Job) -> str:
    """Return a job's name for people."""
    suite = selection.suite
    match job:
        case Victim():
            target = label_in_suite(suite, "target", job.target)
            return f"training {target} on clean images for noises, seed {job.seed}"
        case Protect():
            noise, dataset = label_in_suite(suite, "noise", job.noise), label_in_suite(suite, "dataset", job.source)
            return f"making {noise} for {dataset}, seed {job.seed}"
        case Trial():
            return f"trial of {job_name(selection, job.cell)}"
        case Cell():
            noise = label_in_suite(suite, "noise", job.protect.noise)
            share = "" if job.protected == 1 and job.kind == "mixed" else f" ({job.protected:.0%} {job.kind})"
            breaker, target = chain_label_in_suite(suite, job.chain), label_in_suite(suite, "target", job.target)
            return f"{noise}{share} / {breaker} on {target}, seed {job.protect.seed}"


def name_jobs(selections: Mapping[str, Selection], jobs: Sequence[Job]) -> dict[str, str]:
    """Return the names of jobs by key; `selections` has the selection of each job by key.

    A name has the data set or the recipe where jobs of one name differ in it.
    """
    names = {job.key: job_name(selections[job.key], job) for job in jobs}
    for describe in (_dataset_detail, _recipe_detail):
        count = Counter(names.values())
        details = {job.key: describe(selections[job.key], job) for job in jobs if count[names[job.key]] > 1}
        differing = {names[key]: set[str]() for key in details}
        for key, detail in details.items():
            differing[names[key]].add(detail)
        names |= {key: f"{names[key]}, {detail}" for key, detail in details.items() if len(differing[names[key]]) > 1}
    return names


def _dataset_detail(selection: Selection, job: Job) -> str:
    return label_in_suite(selection.suite, "dataset", job.source)


def _recipe_detail(selection: Selection, job: Job) -> str:
    return f"recipe {component_label(selection.recipe)}"


@dataclass(frozen=True)
class CellLabels:
    """The names of a cell's parts; records and published numbers are matched by them."""

    dataset: str
    noise: str
    breaker: str
    target: str
    protected: float
    kind: str
    recipe: str


def cell_labels(selection: Selection, cell: Cell) -> CellLabels:
    """Return the names that a suite gives a cell's parts."""
    suite = selection.suite
    return CellLabels(
        dataset=label_in_suite(suite, "dataset", cell.protect.source),
        noise=label_in_suite(suite, "noise", cell.protect.noise),
        breaker=chain_label_in_suite(suite, cell.chain),
        target=label_in_suite(suite, "target", cell.target),
        protected=cell.protected,
        kind=cell.kind,
        recipe=component_label(cell.recipe),
    )
