"""`uebench bench`: measures the attack step and the training step of every network of some suites on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from uebench.compute.throughput import measure_steps
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.datasets import content_fingerprint, load_dataset
from uebench.jobs.environment import current_time, made_with
from uebench.jobs.forecast import networks_to_measure, record_time
from uebench.planning.plan import Plan, plan_cells
from uebench.planning.selection import select_components
from uebench.planning.suite_file import read_suite
from uebench.workflows.run import plan_with_references


@dataclass(frozen=True)
class BenchReport:
    """Measured speeds, a mapping for each network and step, what they were measured with, and the suites' plans."""

    made_with: Mapping[str, Any]
    finished: str
    speeds: Sequence[Mapping[str, Any]]
    plans: Mapping[str, Plan]

    def facts(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        return {"made_with": self.made_with, "finished": self.finished, "speeds": self.speeds}


def bench_suites(
    suites: Sequence[str],
    settings: ExecutionSettings,
    seconds: float,
    *,
    datasets: Sequence[str] = (),
    targets: Sequence[str] = (),
    recipe: str | None = None,
) -> BenchReport:
    """Measure every network of some suites for `seconds` each, and keep the rates in the store for forecasts."""
    store = settings.open_store()
    device = torch.device(settings.worker_devices()[0])
    torch.set_num_threads(settings.threads)
    fingerprint, plans = partial(content_fingerprint, store=store), {}
    for name in suites:
        selections = select_components(read_suite(name), datasets=datasets, targets=targets, recipe=recipe)
        cells = [cell for selection in selections for cell in plan_with_references(selection, fingerprint).cells]
        plans[name] = plan_cells(cells)
    store.prepare()
    measured = []
    for training in networks_to_measure(job for plan in plans.values() for job in plan.jobs):
        data = load_dataset(training.source, training.fingerprint, store)
        channels, height, width = data.test.images.shape[1:]
        shape = (channels, height, width)
        speeds = measure_steps(training.target, shape, len(data.classes), training.recipe, device, seconds)
        seconds_per_pass = sum(1 / speed.images_per_second for speed in speeds) / len(speeds)
        record_time(training, store, device, seconds_per_pass * sum(training.passes().values()))
        measured += [speed.facts() for speed in speeds]
    return BenchReport(made_with(device), current_time(), measured, plans)
