"""Decides where jobs run: in this process, or in spawned processes, so many for each device; nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from uebench import spec
from uebench.api import UserError
from uebench.journal import Report
from uebench.place import Place
from uebench.plan import Job, Plan
from uebench.plugin_file import PluginFile
from uebench.registry import registry
from uebench.result import Result
from uebench.store import Busy, Store
from uebench.work import finished, perform

PATIENCE = 0.5
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
class Queue:
    """Jobs in order; a job waits for those it needs, one held by another process for a moment."""

    listener: Listener
    jobs: list[Job] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _later: dict[str, float] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)

    def take(self) -> Job | None:
        """Return the next job that can start now, or None."""
        waiting = {job.key for job in self.jobs} | self._running
        for job in self.jobs:
            if self._later.get(job.key, 0) > time.monotonic() or any(one.key in waiting for one in job.needs):
                continue
            self.jobs.remove(job)
            self._running.add(job.key)
            if job.key not in self._later:
                self.listener.started(job)
            return job
        return None

    def close(self, job: Job, kind: str, *content: Any) -> None:
        """Take note of how a job ended: `done`, `busy` or `failed`; those that need a failed job fail with it."""
        self._running.discard(job.key)
        if kind == "done":
            (outcome,) = content
            if isinstance(outcome, Result):
                self.results[job.key] = outcome
            self.listener.ended(job, outcome)
        elif kind == "busy":
            if job.key not in self._later:
                self.listener.said("another process is at work on a job of this run; waiting for it")
            self._later[job.key] = time.monotonic() + PATIENCE
            self.jobs.append(job)
        else:
            reason, trace = content
            self.failures[job.key] = reason
            self.listener.failed(job, reason, trace)
            for one in list(self.jobs):  # a job stands behind those it needs
                if any(need.key in self.failures for need in one.needs):
                    self.jobs.remove(one)
                    self.failures[one.key] = f"what it needs failed: {reason}"


def _attempt(job: Job, place: Place, report: Report) -> tuple[Any, ...]:
    """Do a job and return how it ended, as `Queue.close` takes it."""
    try:
        return "done", perform(job, place, report)
    except Busy:
        return ("busy",)
    except UserError as error:
        return "failed", str(error), ""
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()


def here(queue: Queue, place: Place) -> None:
    """Run every job in this process, one after the other."""
    while queue.jobs:
        job = queue.take()
        if job is None:
            time.sleep(PATIENCE / 4)
        else:
            queue.close(job, *_attempt(job, place, partial(queue.listener.stepped, job)))


def _serve(
    connection: Connection, root: Path, device: str, threads: int, every: float, files: Sequence[PluginFile]
) -> None:
    """Do the jobs that come through a connection, until it closes or the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    torch.set_num_threads(threads)
    for file in files:  # before a job brings a component of theirs
        registry().add(file)
    place = Place(Store(root, lambda line: connection.send(("said", line))), torch.device(device), every)

    def report(step: int, count: int, loss: float | None) -> None:
        connection.send(("step", step, count, loss))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(_attempt(job, place, report))


class _Worker:
    """A spawned process, the way to it, and the job it is at; replaced by a fresh process where it dies."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.job: Job | None = None
        self.spawn()

    def spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        """Send a job, to a fresh process where the old one died idle."""
        self.job = job
        try:
            self.connection.send(job)
        except OSError:
            self.spawn()
            self.connection.send(job)

    def listen(self, queue: Queue) -> None:
        """Take one message, or note that the process died."""
        job = self.job
        assert job
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            kind, content = "failed", [f"its process died (exit code {self.process.exitcode}); out of memory?", ""]
            self.spawn()
        if kind == "said":
            queue.listener.said(*content)
        elif kind == "step":
            queue.listener.stepped(job, *content)
        else:
            self.job = None
            queue.close(job, kind, *content)


def spread(queue: Queue, root: Path, devices: Sequence[str], workers: int, threads: int, every: float) -> None:
    """Run every job on `workers` spawned processes per device; a process that dies fails its job only."""
    places = [(root, device, threads, every, registry().files) for _ in range(workers) for device in devices]
    crew = [_Worker(*place) for place in places[: len(queue.jobs)]]
    try:
        while queue.jobs or any(one.job for one in crew):
            for one in crew:
                if one.job is None and (job := queue.take()):
                    one.give(job)
            busy = {one.connection: one for one in crew if one.job}
            for connection in wait(list(busy), timeout=PATIENCE / 4) if busy else ():
                busy[connection].listen(queue)  # type: ignore[index]
            if not busy:
                time.sleep(PATIENCE / 4)
    finally:
        for one in crew:
            one.process.kill()
        for one in crew:
            one.process.join()


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(wanted: str | None = None) -> list[str]:
    """Return the devices to use: those named, separated by commas, else every visible GPU, else the processor.

    Raises `UserError` for a device that is not there.
    """
    there = [f"cuda:{place}" for place in range(torch.cuda.device_count())] or ["cpu"]
    if wanted is None:
        return there
    for name in wanted.split(","):
        if name not in ("cpu", *there):
            raise UserError(f"no device {name!r} here{spec.nearest(name, {'cpu', *there})}")
    return wanted.split(",")


def execute(
    plan: Plan, queue: Queue, root: Path, *, devices: Sequence[str], workers: int, threads: int, every: float
) -> None:
    """Run what a plan still lacks; results and failures are in the queue, by key, also after an interruption."""
    store = Store(root, queue.listener.said)
    for job in plan.jobs:
        outcome = finished(job, store)
        if isinstance(outcome, Result):
            queue.results[job.key] = outcome
        if outcome:
            queue.listener.ended(job, outcome)
        else:
            queue.jobs.append(job)
    if queue.jobs and len(devices) * workers == 1:
        torch.set_num_threads(threads)
        here(queue, Place(store, torch.device(devices[0]), every))
    elif queue.jobs:
        spread(queue, root, devices, workers, threads, every)
