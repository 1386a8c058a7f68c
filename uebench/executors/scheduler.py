"""The jobs of a run: in which order they start, which can start now, how one is attempted, and how each ended."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from uebench.components.errors import UserError
from uebench.jobs.checkpoint import ReportStep
from uebench.jobs.forecast import count_passes, estimate_seconds
from uebench.jobs.run import find_finished, run_job_once
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Job, Plan, Protect, Trial, Victim
from uebench.storage.result import Result
from uebench.storage.store import Busy, Store

PAUSE = 0.5
"""Seconds before a job that another process holds is tried again."""


class Listener(Protocol):
    """What a run tells the person who watches it."""

    def started(self, job: Job) -> None:
        """Tell that a job began."""

    def stepped(self, job: Job, step: int, count: int, loss: float | None) -> None:
        """Tell how far a job is, and its loss if it has one."""

    def ended(self, job: Job, outcome: Result | bool) -> None:
        """Tell that a job is finished."""

    def failed(self, job: Job, reason: str, trace: str) -> None:
        """Tell that a job failed; the trace is empty for a user's mistake."""

    def said(self, line: str) -> None:
        """Tell something worth knowing."""


@dataclass
class JobQueue:
    """Jobs in order; a job waits for those it needs, one held by another process for a moment.

    `recorded` is what a board knows of results, by key.
    """

    listener: Listener
    jobs: list[Job] = field(default_factory=list)
    recorded: Mapping[str, Result] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _later: dict[str, float] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    _begun: set[str] = field(default_factory=set)
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fill(self.jobs)

    def fill(self, jobs: Sequence[Job]) -> None:
        """Put jobs in the place of those that wait."""
        self.jobs = list(jobs)
        self._open = {job.key for job in jobs}

    def take(self) -> Job | None:
        """Return the next job that can start now, or None."""
        for place, job in enumerate(self.jobs):
            if self._later.get(job.key, 0) > time.monotonic() or any(needed.key in self._open for needed in job.needs):
                continue
            del self.jobs[place]
            if job.key not in self._begun:
                self._begun.add(job.key)
                self.listener.started(job)
            return job
        return None

    def begun(self, job: Job) -> None:
        """Take note that a job was started elsewhere."""
        self.jobs = [waiting for waiting in self.jobs if waiting.key != job.key]
        self._begun.add(job.key)
        self.listener.started(job)

    def waits(self, job: Job, held: str) -> None:
        """Take note that a job waits for a key that is held; said once, and not where another job of the run has it."""
        if (held == job.key or held not in self._begun) and job.key not in self._told:
            self._told.add(job.key)
            self.listener.said("another process is at work on a job of this run; waiting for it")

    def close(self, job: Job, kind: str, *content: Any) -> None:
        """Take note of how a job ended: `done`, `busy` or `failed`; those that need a failed job fail with it."""
        if kind == "busy":
            self.waits(job, *content)
            self._later[job.key] = time.monotonic() + PAUSE
            self.jobs.append(job)
            return
        self._open.discard(job.key)
        if kind == "done":
            (outcome,) = content
            if isinstance(outcome, Result):
                self.results[job.key] = outcome
            self.listener.ended(job, outcome)
        else:
            reason, trace = content
            self.failures[job.key] = reason
            self.listener.failed(job, reason, trace)
            left = []
            for waiting in self.jobs:  # a job comes after those it needs
                if any(needed.key in self.failures for needed in waiting.needs):
                    self._open.discard(waiting.key)
                    self.failures[waiting.key] = f"what it needs failed: {reason}"
                else:
                    left.append(waiting)
            self.jobs = left


def attempt_job(job: Job, place: Workspace, report: ReportStep) -> tuple[Any, ...]:
    """Do a job and return how it ended, as `Queue.close` takes it; short of memory, the process goes on usable."""
    try:
        return "done", run_job_once(job, place, report)
    except Busy as error:
        return "busy", error.key
    except UserError as error:
        return "failed", str(error), ""
    except Exception as error:
        if not _short_of_memory(error):
            return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()
        detail = " ".join(str(error).split())[:200]
    gc.collect()  # the frames that held the tensors are gone with the error
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    reason = f"out of memory on {place.device}; fewer --workers leave each more, or a smaller batch in the recipe"
    return "failed", reason + (f" ({detail})" if detail else ""), ""


def _short_of_memory(error: Exception) -> bool:
    # torch has no type of its own for what the host's allocator refuses
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def unfinished_jobs(plan: Plan, queue: JobQueue, store: Store) -> list[Job]:
    """Return the jobs of a plan that are not finished; the results of those that are go into the queue."""
    left = []
    for job in plan.jobs:
        outcome = find_finished(job, store, queue.recorded)
        if isinstance(outcome, Result):
            queue.results[job.key] = outcome
        if outcome:
            queue.listener.ended(job, outcome)
        else:
            left.append(job)
    return left


def order_jobs(jobs: Iterable[Job], store: Store, device: torch.device) -> list[Job]:
    """Return jobs in the order in which they are to start; no number depends on it.

    A noise is followed by its trials and cells, the longest first, those last that trials decide, and led by the
    victims that it needs; noises come by the longest way from there to the end of a cell, so that no long job is left
    for the end. A job's length is its time where those of all have been measured, else its passes.
    """
    jobs = list(jobs)
    here = {job.key for job in jobs}
    times = estimate_seconds(jobs, store, device)
    measured = [time for time in times if time is not None]
    lengths = measured if len(measured) == len(jobs) else [sum(count_passes(job).values()) for job in jobs]
    length = {job.key: seconds for job, seconds in zip(jobs, lengths, strict=True)}
    groups: dict[str, list[Cell | Trial]] = {}
    noises: dict[str, Protect] = {}
    for job in jobs:
        if not isinstance(job, Victim):
            noise = job if isinstance(job, Protect) else job.protect
            noises[noise.key] = noise
            groups.setdefault(noise.key, []).extend([] if isinstance(job, Protect) else [job])

    def way(noise: Protect) -> float:
        before = max((length.get(victim.key, 0) for victim in noise.victims), default=0)
        after = max((length[cell.key] for cell in groups[noise.key]), default=0)
        return before + length.get(noise.key, 0) + after

    found: dict[str, Job] = {}
    for noise in sorted(noises.values(), key=way, reverse=True):
        cells = sorted(
            groups[noise.key], key=lambda job: (isinstance(job, Cell) and job.trials != (), -length[job.key])
        )
        together: list[Job] = [*noise.victims, noise, *cells]
        found |= {job.key: job for job in together if job.key in here}
    return list({**found, **{job.key: job for job in jobs}}.values())
