"""The jobs of a run: the order in which they start, which can start now, one attempt at a job, and how each ended."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from uebench.components.errors import UserError
from uebench.executors.messages import Done, Failed, Held, Listener, Outcome
from uebench.jobs.checkpoint import ReportStep
from uebench.jobs.forecast import estimate_work
from uebench.jobs.run import find_finished, run_job_once
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Job, Plan, Protect
from uebench.storage.result import Result
from uebench.storage.store import Busy, Store

PAUSE = 0.5
"""Seconds before a job that another process holds is tried again."""


@dataclass
class JobQueue:
    """The jobs of a run in order; a job waits until those that it needs are finished.

    `recorded` has the results of a board by key. `results` and `failures` fill up as jobs end, by key.
    `interrupted` says whether the user stopped the run.
    """

    listener: Listener
    jobs: list[Job] = field(default_factory=list)
    recorded: Mapping[str, Result] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    _retry_at: dict[str, float] = field(default_factory=dict)
    _open: set[str] = field(default_factory=set)
    _started: set[str] = field(default_factory=set)
    _noted: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.replace_jobs(self.jobs)

    def replace_jobs(self, jobs: Sequence[Job]) -> None:
        """Let these jobs wait in place of those that did."""
        self.jobs = list(jobs)
        self._open = {job.key for job in jobs}

    def interrupt(self, *_: object) -> None:
        """Stop the run, as the handler of a signal."""
        self.interrupted = True
        raise KeyboardInterrupt

    def check_interrupted(self) -> None:
        """Raise `KeyboardInterrupt` if the run was stopped; one that was raised in a destructor is lost."""
        if self.interrupted:
            raise KeyboardInterrupt

    def next_job(self) -> Job | None:
        """Remove and return the next job that can start now, or None."""
        now = time.monotonic()
        for index, job in enumerate(self.jobs):
            if self._retry_at.get(job.key, 0) > now or any(needed.key in self._open for needed in job.needs):
                continue
            del self.jobs[index]
            if job.key not in self._started:
                self._started.add(job.key)
                self.listener.started(job)
            return job
        return None

    def mark_started(self, job: Job) -> None:
        """Record that a job was started by somebody else than `next_job`."""
        self.jobs = [waiting for waiting in self.jobs if waiting.key != job.key]
        self._started.add(job.key)
        self.listener.started(job)

    def mark_held(self, job: Job, held: Held) -> None:
        """Record that a job waits for a lock.

        The listener hears of it once, and only where no other job of this run holds the lock.
        """
        if (held.key == job.key or held.key not in self._started) and job.key not in self._noted:
            self._noted.add(job.key)
            self.listener.note("another process is at work on a job of this run; waiting for it")

    def close(self, job: Job, outcome: Outcome) -> None:
        """Record how an attempt ended; jobs that need a failed job fail with it."""
        if isinstance(outcome, Held):
            self.mark_held(job, outcome)
            self._retry_at[job.key] = time.monotonic() + PAUSE
            self.jobs.append(job)
            return
        self._open.discard(job.key)
        if isinstance(outcome, Done):
            if isinstance(outcome.result, Result):
                self.results[job.key] = outcome.result
            self.listener.finished(job, outcome.result)
            return
        self.failures[job.key] = outcome.reason
        self.listener.failed(job, outcome)
        waiting = []
        for other in self.jobs:  # a job stands after those that it needs
            if any(needed.key in self.failures for needed in other.needs):
                self._open.discard(other.key)
                self.failures[other.key] = f"a job that it needs failed: {outcome.reason}"
            else:
                waiting.append(other)
        self.jobs = waiting


def attempt_job(job: Job, workspace: Workspace, report: ReportStep) -> Outcome:
    """Run a job and return how it ended; after a lack of memory the process stays usable."""
    try:
        return Done(run_job_once(job, workspace, report))
    except Busy as error:
        return Held(error.key)
    except UserError as error:
        return Failed(str(error))
    except Exception as error:
        if not _lacks_memory(error):
            return Failed(f"{type(error).__name__}: {error}", traceback.format_exc())
        detail = " ".join(str(error).split())[:200]
    gc.collect()  # the frames that held the tensors are gone with the error
    if workspace.device.type == "cuda":
        torch.cuda.empty_cache()
    reason = f"out of memory on {workspace.device}; fewer --workers leave each more, or a smaller batch in the recipe"
    return Failed(reason + (f" ({detail})" if detail else ""))


def _lacks_memory(error: Exception) -> bool:
    # torch has no error type of its own for what the host's allocator refuses
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def unfinished_jobs(plan: Plan, queue: JobQueue, store: Store) -> list[Job]:
    """Return the jobs of a plan that are not finished; results of finished ones go into the queue."""
    unfinished = []
    for job in plan.jobs:
        result = find_finished(job, store, queue.recorded)
        if isinstance(result, Result):
            queue.results[job.key] = result
        if result:
            queue.listener.finished(job, result)
        else:
            unfinished.append(job)
    return unfinished


def order_jobs(jobs: Iterable[Job], store: Store, device: torch.device) -> list[Job]:
    """Return jobs in the order in which they start; no number depends on it.

    Noises come by the longest path from their victims to the end of their last cell, so that no long job starts last.
    Each noise follows its victims and precedes its trials and cells: the longest first, and after the others the cells
    that wait for trials. A job's length is its time where every job's time was measured, else its passes.
    """
    jobs = list(jobs)
    keys = {job.key for job in jobs}
    length = estimate_work(jobs, store, device)
    consumers: dict[str, list[Job]] = {}
    noises: dict[str, Protect] = {}
    for job in jobs:
        if job.protect:
            noises[job.protect.key] = job.protect
            if job.key != job.protect.key:
                consumers.setdefault(job.protect.key, []).append(job)

    def path_length(noise: Protect) -> float:
        before = max((length.get(victim.key, 0) for victim in noise.victims), default=0)
        after = max((length[job.key] for job in consumers.get(noise.key, [])), default=0)
        return before + length.get(noise.key, 0) + after

    ordered: dict[str, Job] = {}
    for noise in sorted(noises.values(), key=path_length, reverse=True):
        following = sorted(
            consumers.get(noise.key, []),
            key=lambda job: (len(job.needs) > 1, -length[job.key]),
        )
        together: list[Job] = [*noise.victims, noise, *following]
        ordered |= {job.key: job for job in together if job.key in keys}
    return list({**ordered, **{job.key: job for job in jobs}}.values())
