"""Runs jobs in spawned processes, a number of them per device; a process that dies or hangs costs only its job."""

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
from uebench.executors.messages import (
    Begun,
    Done,
    Failed,
    Held,
    Message,
    Note,
    StepReport,
    death_message,
    silence_message,
)
from uebench.executors.scheduler import PAUSE, JobQueue, attempt_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Job
from uebench.storage.store import Store


@dataclass(frozen=True)
class WorkerSettings:
    """What every worker process needs: the store's folder, CPU threads, seconds between checkpoints, seconds of
    patience with a silent job, and the plug-in files to load.
    """

    root: Path
    threads: int
    every: float
    patience: float | None
    files: Sequence[PluginFile]


def settle_process(files: Sequence[PluginFile]) -> None:
    """Set up a child process: it ignores Ctrl-C, ends with its parent, and loads the plug-in files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    components = registry()
    for file in files:  # before a component of theirs arrives
        components.add(file)


def start_process(process: BaseProcess) -> None:
    """Start a process that ignores Ctrl-C from its first moment, not only once it has loaded its modules."""
    resource_tracker.ensure_running()  # which unblocks the signal when it starts
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _serve_jobs(connection: Connection, device: str, settings: WorkerSettings) -> None:
    """Run the jobs that come through a connection, until it closes or the parent dies."""
    settle_process(settings.files)
    torch.set_num_threads(settings.threads)
    store = Store(settings.root, lambda line: connection.send(Note(line)))
    workspace = Workspace(store, torch.device(device), settings.every)

    def report(step: int, count: int, loss: float | None) -> None:
        connection.send(StepReport(step, count, loss))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(Begun())
        connection.send(attempt_job(job, workspace, report))


class _Worker:
    """A spawned process, the connection to it, and its current job; replaced by a fresh process where it dies."""

    def __init__(self, device: str, settings: WorkerSettings) -> None:
        self.arguments = device, settings
        self.job: Job | None = None
        self.last_message = math.inf  # until the job begins, as a fresh process has to load first
        self.spawn()

    def spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve_jobs, args=(child_connection, *self.arguments), daemon=True)
        start_process(self.process)
        child_connection.close()

    def send_job(self, job: Job) -> None:
        """Send a job, to a fresh process where the old one died while idle."""
        self.job, self.last_message = job, math.inf
        try:
            self.connection.send(job)
        except OSError:
            self.spawn()
            self.connection.send(job)

    def receive(self, queue: JobQueue) -> None:
        """Take one message, or notice that the process died."""
        assert self.job
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.replace(queue, Failed(death_message(self.process.exitcode)))
            return
        self.last_message = time.monotonic()
        if isinstance(message, Note):
            queue.listener.note(message.line)
        elif isinstance(message, StepReport):
            queue.listener.progressed(self.job, message)
        elif isinstance(message, Failed) and message.trace:  # an unexpected error can leave a GPU unusable
            self.replace(queue, message)
        elif isinstance(message, Done | Held | Failed):
            job, self.job = self.job, None
            queue.close(job, message)

    def replace(self, queue: JobQueue, failure: Failed) -> None:
        """Fail the job and go on with a fresh process."""
        assert self.job
        self.process.kill()
        job, self.job = self.job, None
        self.spawn()
        queue.close(job, failure)


def run_on_workers(queue: JobQueue, devices: Sequence[str], count: int, settings: WorkerSettings) -> None:
    """Run every job on `count` worker processes per device; one that dies or hangs fails only its job."""
    assigned = [device for _ in range(count) for device in devices]
    workers = [_Worker(device, settings) for device in assigned[: len(queue.jobs)]]
    try:
        while queue.jobs or any(worker.job for worker in workers):
            queue.check_interrupted()
            for worker in workers:
                if worker.job is None and (job := queue.next_job()):
                    worker.send_job(job)
            busy = {worker.connection: worker for worker in workers if worker.job}
            for connection in wait(list(busy), timeout=PAUSE / 4) if busy else ():
                busy[connection].receive(queue)  # type: ignore[index]
            for worker in busy.values():
                if worker.job and settings.patience and time.monotonic() - worker.last_message > settings.patience:
                    worker.replace(queue, Failed(silence_message(settings.patience)))
            if not busy:
                time.sleep(PAUSE / 4)
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()
