"""Runs jobs in spawned processes, so many for each device; one that dies or hangs costs its job only."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from uebench.components.plugin_file import PluginFile
from uebench.components.registry import registry
from uebench.executors.scheduler import PAUSE, JobQueue, attempt_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Job
from uebench.storage.store import Store


def death_message(status: int | None) -> str:
    """Return what is said of a job whose process ended by itself."""
    return f"its process died (exit code {status}); out of memory?"


def silence_message(patience: float) -> str:
    """Return what is said of a job that was silent for so many seconds."""
    return f"nothing was heard of it for {patience:g} s (--patience), so its process was ended"


@dataclass(frozen=True)
class WorkerSettings:
    """What each process works by: the store's folder, CPU threads, seconds between states and of silence, plug-ins."""

    root: Path
    threads: int
    every: float
    patience: float | None
    files: Sequence[PluginFile]


def settle_process(files: Sequence[PluginFile]) -> None:
    """Make this a process that leaves Ctrl-C to its parent, dies with it, and knows its plug-in files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    known = registry()
    for file in files:  # before a component of theirs arrives
        known.add(file)


def start_process(process: BaseProcess) -> None:
    """Start a process that leaves Ctrl-C to its parent from the first, not only once it has loaded what it needs."""
    resource_tracker.ensure_running()  # which unblocks the signal when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, device: str, terms: WorkerSettings) -> None:
    """Do the jobs that come through a connection, until it closes or the parent dies."""
    settle_process(terms.files)
    torch.set_num_threads(terms.threads)
    place = Workspace(
        Store(terms.root, lambda line: connection.send(("said", line))), torch.device(device), terms.every
    )

    def report(step: int, count: int, loss: float | None) -> None:
        connection.send(("step", step, count, loss))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(("begun",))
        connection.send(attempt_job(job, place, report))


class _Worker:
    """A spawned process, the way to it, and the job it is at; replaced by a fresh process where it dies."""

    def __init__(self, device: str, terms: WorkerSettings) -> None:
        self.arguments = device, terms
        self.job: Job | None = None
        self.heard = math.inf  # until the job begins: a fresh process has to load first
        self.spawn()

    def spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *self.arguments), daemon=True)
        start_process(self.process)
        theirs.close()

    def give(self, job: Job) -> None:
        """Send a job, to a fresh process where the old one died idle."""
        self.job, self.heard = job, math.inf
        try:
            self.connection.send(job)
        except OSError:
            self.spawn()
            self.connection.send(job)

    def listen(self, queue: JobQueue) -> None:
        """Take one message, or note that the process died."""
        assert self.job
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.replace(queue, death_message(self.process.exitcode))
            return
        self.heard = time.monotonic()
        if kind == "said":
            queue.listener.said(*content)
        elif kind == "step":
            queue.listener.stepped(self.job, *content)
        elif kind == "failed" and any(content[1:]):  # an error that nobody expected can leave a GPU unusable
            self.replace(queue, *content)
        elif kind != "begun":
            job, self.job = self.job, None
            queue.close(job, kind, *content)

    def replace(self, queue: JobQueue, reason: str, trace: str = "") -> None:
        """Fail the job and go on with a fresh process."""
        assert self.job
        self.process.kill()
        job, self.job = self.job, None
        self.spawn()
        queue.close(job, "failed", reason, trace)


def run_on_workers(queue: JobQueue, devices: Sequence[str], workers: int, terms: WorkerSettings) -> None:
    """Run every job on `workers` spawned processes per device; one that dies or hangs fails its job only."""
    places = [device for _ in range(workers) for device in devices]
    crew = [_Worker(device, terms) for device in places[: len(queue.jobs)]]
    try:
        while queue.jobs or any(worker.job for worker in crew):
            for worker in crew:
                if worker.job is None and (job := queue.take()):
                    worker.give(job)
            busy = {worker.connection: worker for worker in crew if worker.job}
            for connection in wait(list(busy), timeout=PAUSE / 4) if busy else ():
                busy[connection].listen(queue)  # type: ignore[index]
            for worker in busy.values():
                if worker.job and terms.patience and time.monotonic() - worker.heard > terms.patience:
                    worker.replace(queue, silence_message(terms.patience))
            if not busy:
                time.sleep(PAUSE / 4)
    finally:
        for worker in crew:
            worker.process.kill()
        for worker in crew:
            worker.process.join()
