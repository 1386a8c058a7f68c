"""Decides where jobs run: in this process, or in spawned processes, so many for each device."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import torch

from uebench.components.errors import UserError
from uebench.components.grammar import nearest_match
from uebench.components.registry import registry
from uebench.executors.scheduler import PAUSE, JobQueue, attempt_job, order_jobs, unfinished_jobs
from uebench.executors.worker_pool import WorkerSettings, run_on_workers
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Plan
from uebench.storage.store import Store


def run_in_process(queue: JobQueue, place: Workspace) -> None:
    """Run every job in this process, one after the other."""
    while queue.jobs:
        job = queue.take()
        if job is None:
            time.sleep(PAUSE / 4)
        else:
            queue.close(job, *attempt_job(job, place, partial(queue.listener.stepped, job)))


def count_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_devices(wanted: str | None = None) -> list[str]:
    """Return the devices to use: those named, separated by commas, else every visible GPU, else the processor.

    Raises `UserError` for a device that is not there.
    """
    if wanted == "cpu":
        return ["cpu"]
    there = [f"cuda:{place}" for place in range(torch.cuda.device_count())] or ["cpu"]
    if wanted is None:
        return there
    for name in wanted.split(","):
        if name not in ("cpu", *there):
            raise UserError(f"no device {name!r} here{nearest_match(name, {'cpu', *there})}")
    return wanted.split(",")


def count_workers(device: str | None, workers: int | None, threads: int) -> tuple[list[str], int]:
    """Return the devices to use, and the processes for each: one, or as many as the processor has cores for."""
    used = choose_devices(device)
    return used, workers or (1 if used != ["cpu"] else max(1, count_cores() // threads))


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
    """Run what a plan still lacks on this machine; results and failures are in the queue, by key, even if interrupted.

    A job that is silent for `patience` seconds fails. Where nothing is lacking torch is not loaded.
    """
    store = Store(root, queue.listener.said)
    left = unfinished_jobs(plan, queue, store)
    if not left:
        return
    used, workers = count_workers(device, workers, threads)
    first = torch.device(used[0])
    torch.set_num_threads(threads)
    queue.fill(order_jobs(left, store, first))
    if workers == 1 and used == ["cpu"] and not patience:
        run_in_process(queue, Workspace(store, first, every))
    else:
        run_on_workers(queue, used, workers, WorkerSettings(root, threads, every, patience, registry().files))
