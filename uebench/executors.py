"""Decides where jobs run: in this process, or in spawned processes, so many for each device."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import torch

from uebench import grammar
from uebench.errors import UserError
from uebench.place import Place
from uebench.plan import Plan
from uebench.processes import Terms, spread
from uebench.registry import registry
from uebench.schedule import PAUSE, Queue, attempt, lacking, ordered
from uebench.store import Store


def here(queue: Queue, place: Place) -> None:
    """Run every job in this process, one after the other."""
    while queue.jobs:
        job = queue.take()
        if job is None:
            time.sleep(PAUSE / 4)
        else:
            queue.close(job, *attempt(job, place, partial(queue.listener.stepped, job)))


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices(wanted: str | None = None) -> list[str]:
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
            raise UserError(f"no device {name!r} here{grammar.nearest(name, {'cpu', *there})}")
    return wanted.split(",")


def crew(device: str | None, workers: int | None, threads: int) -> tuple[list[str], int]:
    """Return the devices to use, and the processes for each: one, or as many as the processor has cores for."""
    used = devices(device)
    return used, workers or (1 if used != ["cpu"] else max(1, cores() // threads))


def execute(
    plan: Plan,
    queue: Queue,
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
    left = lacking(plan, queue, store)
    if not left:
        return
    used, workers = crew(device, workers, threads)
    first = torch.device(used[0])
    torch.set_num_threads(threads)
    queue.fill(ordered(left, store, first))
    if workers == 1 and used == ["cpu"] and not patience:
        here(queue, Place(store, first, every))
    else:
        spread(queue, used, workers, Terms(root, threads, every, patience, registry().files))
