"""`--dry-run`: the jobs of a run, the passes they take, and their time at the rates measured on this device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from rich.console import Console

from uebench.cli.console import print_table
from uebench.jobs.forecast import estimate_seconds
from uebench.jobs.run import find_finished
from uebench.planning.plan import Plan
from uebench.storage.store import Store


@dataclass(frozen=True)
class PlannedJob:
    """A job of a run: its passes of one image, the seconds it is expected to take, and whether it is finished.

    `seconds` is None where nothing of the kind was measured on this device.
    """

    key: str
    name: str
    passes: float
    seconds: float | None
    done: bool


def forecast_jobs(plan: Plan, names: Mapping[str, str], store: Store, device: str) -> list[PlannedJob]:
    """Return every job of a plan, in its order."""
    times = estimate_seconds(plan.jobs, store, torch.device(device))
    return [
        PlannedJob(job.key, names[job.key], sum(job.passes().values()), seconds, bool(find_finished(job, store)))
        for job, seconds in zip(plan.jobs, times, strict=True)
    ]


def print_dry_run(
    console: Console, title: str, plan: Plan, jobs: Sequence[PlannedJob], store: Store, devices: list[str]
) -> None:
    """Print the totals of a plan and its time on workers with these devices, then a line for each job of all seeds."""
    unfinished = {job.key for job in jobs if not job.done}
    trials = f", {len(plan.trials)} trials" if plan.trials else ""
    console.print(
        f"{len(plan.protects)} noises{trials} and {len(plan.cells)} cells; {len(unfinished)} of {len(jobs)} jobs to do"
    )
    if unfinished:
        console.print(describe_total(plan, unfinished, store, devices))
    groups: dict[str, list[PlannedJob]] = {}
    for job in jobs:
        groups.setdefault(re.sub(r", seed \d+", "", job.name, count=1), []).append(job)
    rows = [[name, *_group_cells(group)] for name, group in groups.items()]
    print_table(console, title, ["job", "seeds", "done", "passes", "time left"], rows)


def _group_cells(group: Sequence[PlannedJob]) -> list[str]:
    """Return the number of jobs of a group, how many are done, and what the others take."""
    jobs_left = [job for job in group if not job.done]
    passes, times = sum(job.passes for job in jobs_left), [job.seconds for job in jobs_left]
    measured = [seconds for seconds in times if seconds is not None]
    time = format_seconds(sum(measured) if len(measured) == len(times) else None)
    return [
        str(len(group)),
        str(len(group) - len(jobs_left)),
        format_passes(passes) if passes else "–",
        time if jobs_left else "",
    ]


def describe_total(plan: Plan, unfinished: Set[str], store: Store, devices: list[str]) -> str:
    """Return a sentence about passes and time of unfinished jobs on workers with these devices."""
    jobs = [job for job in plan.jobs if job.key in unfinished]
    passes = format_passes(sum(sum(job.passes().values()) for job in jobs))
    measured = [seconds for seconds in estimate_seconds(jobs, store, torch.device(devices[0])) if seconds is not None]
    if not measured:
        time = "nothing of the kind was measured on this device so far"
    else:
        unlike = f"; {len(jobs) - len(measured)} jobs are unlike any measured and not in it"
        workers = f"{len(devices)} worker{'s' * (len(devices) > 1)}"
        time = f"{format_seconds(sum(measured) / len(devices))} on {workers} at the rates measured here so far"
        time += unlike if len(measured) < len(jobs) else ""
    return f"Passes of one image, forward and backward: {passes}\nTime: {time}"


def speed_table(speeds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table of measured speeds."""
    head = ["network", "step", "images/s", "ms", "TFLOP/s", "of matrix product", "precision"]
    rows = [
        [
            speed["network"],
            speed["step"],
            f"{speed['images_per_second']:.3g}",
            f"{1e3 * speed['seconds']:.3g}",
            f"{speed['flops'] / speed['seconds'] / 1e12:.3g}",
            f"{speed['share']:.0%}",
            speed["precision"],
        ]
        for speed in speeds
    ]
    return head, rows


def format_seconds(seconds: float | None) -> str:
    """Write a time as hours, minutes and seconds."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def format_passes(passes: float) -> str:
    """Write a number of passes with three digits and a unit."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if passes >= unit:
            return f"{passes / unit:.3g} {name}"
    return f"{passes:.3g}"
