"""Runs jobs on this machine: in this process, or on worker processes, a number of them per device."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import torch

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.registry import registry
from uebench.executors.messages import StepReport
from uebench.executors.scheduler import PAUSE, JobQueue, attempt_job, order_jobs, unfinished_jobs
from uebench.executors.worker_pool import WorkerSettings, run_on_workers
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Job, Plan
from uebench.storage.store import Store


def run_in_process(queue: JobQueue, workspace: Workspace) -> None:
    """Run every job of a queue in this process, one after the other."""

    def report(job: Job, step: int, count: int, loss: float | None) -> None:
        queue.check_interrupted()
        queue.listener.progressed(job, StepReport(step, count, loss))

    while queue.jobs:
        queue.check_interrupted()
        job = queue.next_job()
        if job is None:
            time.sleep(PAUSE / 4)
        else:
            queue.close(job, attempt_job(job, workspace, partial(report, job)))


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_devices(names: str | None = None) -> list[str]:
    """Return the devices to use: those named, separated by commas, else every visible GPU, else the processor.

    Raises `UserError` for a device that this machine does not have.
    """
    if names == "cpu":
        return ["cpu"]
    visible = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    if names is None:
        return visible
    for name in names.split(","):
        if name not in ("cpu", *visible):
            raise UserError(f"no device {name!r} here{nearest_match(name, {'cpu', *visible})}")
    return names.split(",")


def count_workers(device: str | None, workers: int | None, threads: int) -> tuple[list[str], int]:
    """Return the devices to use, and the processes for each: one, or on a processor as many as it has cores for."""
    devices = choose_devices(device)
    return devices, workers or (1 if devices != ["cpu"] else max(1, count_cores() // threads))


def run_locally(
    plan: Plan,
    queue: JobQueue,
    root: Path,
    *,
    device: str | None,
    workers: int | None,
    threads: int,
    every: float,
    patience: float | None = None,
) -> None:
    """Run the unfinished jobs of a plan on this machine; the queue has results and failures, even if interrupted.

    A job that reports nothing for `patience` seconds fails. Torch is not loaded where every job is finished.
    """
    store = Store(root, queue.listener.note)
    unfinished = unfinished_jobs(plan, queue, store)
    if not unfinished:
        return
    devices, workers = count_workers(device, workers, threads)
    first = torch.device(devices[0])
    torch.set_num_threads(threads)
    queue.replace_jobs(order_jobs(unfinished, store, first))
    if workers == 1 and devices == ["cpu"] and not patience:
        run_in_process(queue, Workspace(store, first, every))
    else:
        run_on_workers(queue, devices, workers, WorkerSettings(root, threads, every, patience, registry().files))
