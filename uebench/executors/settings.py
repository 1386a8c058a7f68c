"""Where and how a command runs its jobs: the store, the devices, the processes, and the executor."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from uebench.components.registry import registry
from uebench.executors.local import choose_devices, count_workers, run_locally
from uebench.executors.ray_driver import check_ray, run_on_ray
from uebench.executors.scheduler import JobQueue
from uebench.executors.worker_pool import WorkerSettings
from uebench.jobs.forecast import estimate_work
from uebench.jobs.run import plugin_versions
from uebench.planning.plan import Job, Plan
from uebench.storage.store import Store


@dataclass(frozen=True)
class ExecutionSettings:
    """The store, the devices, and the number of processes per device and of CPU threads per process.

    `keep_every` is the time between two checkpoints of a job, in seconds. A job that reports nothing for `patience`
    seconds fails. With the executor `ray` the devices are those of the Ray cluster at an address, or of a cluster that
    is started on this machine. `note` takes lines worth knowing, such as about damage found in the store.
    """

    store: Path
    device: str | None = None
    workers: int | None = None
    threads: int = 1
    keep_every: float = 60.0
    patience: float | None = None
    executor: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    note: Callable[[str], None] = lambda line: None

    def open_store(self) -> Store:
        """Return the store."""
        return Store(self.store, self.note)

    def check(self) -> None:
        """Raise `UserError` for a device or an executor that is not available, before any work is done."""
        if self.executor == "ray":
            check_ray(self.device)
        elif self.device:
            choose_devices(self.device)

    def worker_devices(self) -> list[str]:
        """Return the device of each worker process."""
        devices, count = count_workers(self.device, self.workers, self.threads)
        return devices * count

    def work_left(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Return the expected work of each of some unfinished jobs by key, all in seconds or all in passes.

        Sets the number of threads of torch, since times were measured with a number of threads.
        """
        if not jobs:
            return {}  # so that torch is not loaded
        torch.set_num_threads(self.threads)
        device = "cpu" if self.executor == "ray" else self.worker_devices()[0]
        return estimate_work(jobs, self.open_store(), device)

    def execute(self, plan: Plan, queue: JobQueue) -> bool:
        """Run the unfinished jobs of a plan; returns whether it came to its end without an interruption."""
        for name in _changed_plugin_files(plan, Store(self.store)):
            queue.listener.note(
                f"finished jobs were done with another content of {name}; "
                "raise the version of what you changed to do them again"
            )
        signal.signal(signal.SIGTERM, queue.interrupt)
        by_keyboard = signal.getsignal(signal.SIGINT)
        if by_keyboard is not signal.SIG_IGN:  # which a shell sets for its background jobs
            signal.signal(signal.SIGINT, queue.interrupt)
        try:
            if self.executor == "ray":
                settings = WorkerSettings(
                    self.store.resolve(), self.threads, self.keep_every, self.patience, registry().files
                )
                run_on_ray(plan, queue, settings, self.ray_address, self.device, self.workers)
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
        finally:
            signal.signal(signal.SIGINT, by_keyboard)
        return True


def _changed_plugin_files(plan: Plan, store: Store) -> list[str]:
    """Return the names of plug-in files that had another content when finished jobs were done."""
    now = {file.name: file.release for file in registry().files}
    recorded = [plugin_versions(job, store) for job in plan.jobs] if now else []
    return [name for name in now if any(versions.get(name, now[name]) != now[name] for versions in recorded)]
