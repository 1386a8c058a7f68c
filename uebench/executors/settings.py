"""Where a command does its work: the store, the devices, and by which executor."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from uebench.components.registry import registry
from uebench.executors.local import choose_devices, count_workers, run_locally
from uebench.executors.ray_driver import check_ray, run_on_ray
from uebench.executors.scheduler import JobQueue
from uebench.executors.worker_pool import WorkerSettings
from uebench.jobs.run import plugin_versions
from uebench.planning.plan import Plan
from uebench.storage.store import Store


@dataclass(frozen=True)
class ExecutionSettings:
    """The store, the devices, and how many processes and threads are used; a job silent for `patience` seconds fails.

    With the executor `ray` the devices are those of the Ray cluster at an address, or of one started on this machine.
    """

    store: Path
    device: str | None
    workers: int | None
    threads: int
    keep_every: float
    patience: float | None = None
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None

    def open(self) -> Store:
        """Return the store; what it finds damaged is told on standard error."""
        return Store(self.store, lambda line: click.echo(f"note: {line}", err=True))

    def check(self) -> None:
        """Raise `UserError` for a device or an executor that is not there, before anything is done."""
        if self.executor == "ray":
            check_ray(self.device)
        elif self.device:
            choose_devices(self.device)

    def crew(self) -> tuple[list[str], int]:
        """Return the devices to use and the number of processes for each."""
        return count_workers(self.device, self.workers, self.threads)

    def execute(self, plan: Plan, queue: JobQueue) -> bool:
        """Run what a plan lacks; returns whether it went through, uninterrupted."""
        for name in _edited(plan, Store(self.store)):
            queue.listener.said(
                f"finished work was done with another content of {name}; "
                "raise the version of what you changed to do it again"
            )
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            if self.executor == "ray":
                terms = WorkerSettings(
                    self.store.resolve(), self.threads, self.keep_every, self.patience, registry().files
                )
                run_on_ray(plan, queue, terms, self.ray_address, self.device, self.workers)
            else:
                run_locally(
                    plan,
                    queue,
                    self.store,
                    device=self.device,
                    workers=self.workers,
                    threads=self.threads,
                    every=self.keep_every,
                    patience=self.patience,
                )
        except KeyboardInterrupt:
            return False
        return True


def _interrupt(*_: object) -> None:
    """Stop as Ctrl-C does; in a shell's background jobs SIGINT itself is ignored."""
    raise KeyboardInterrupt


def _edited(plan: Plan, store: Store) -> list[str]:
    """Return the names of plug-in files that had another content when finished jobs were done."""
    now = {file.name: file.release for file in registry().files}
    found = [plugin_versions(job, store) for job in plan.jobs] if now else []
    return [name for name in now if any(versions.get(name, now[name]) != now[name] for versions in found)]
