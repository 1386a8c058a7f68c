"""`uebench bench`: measures the attack step and the training step of every network of some suites on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from uebench.components.errors import UserError
from uebench.components.spec import component_label
from uebench.compute.throughput import measure_steps
from uebench.executors.preflight import Preflight
from uebench.executors.settings import ExecutionSettings
from uebench.jobs.datasets import load_dataset
from uebench.jobs.environment import current_time, made_with
from uebench.jobs.forecast import networks_to_measure, record_time
from uebench.planning.plan import Plan, Victim, plan_cells
from uebench.planning.selection import select_components
from uebench.planning.suite_file import read_suite
from uebench.storage.store import Store
from uebench.workflows.run import plan_with_references

ASSUMED_CLASSES = 10
"""The number of classes for measurements without the data set; it hardly changes the time of a step."""


@dataclass(frozen=True)
class BenchReport:
    """Measured speeds, a mapping for each network and step, what they were measured with, and the suites' plans.

    `missing` has a line for each data set that cannot be read; its networks are still measured.
    """

    made_with: Mapping[str, Any]
    finished: str
    speeds: Sequence[Mapping[str, Any]]
    plans: Mapping[str, Plan]
    missing: Sequence[str] = ()

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
    """Measure every network of some suites for `seconds` each, and keep the rates in the store for forecasts.

    The images are random. A data set is read only where it does not declare its shape and number of classes.
    """
    store = settings.open_store()
    device = torch.device(settings.worker_devices()[0])
    torch.set_num_threads(settings.threads)
    preflight, plans = Preflight(store), {}
    for name in suites:
        selections = select_components(read_suite(name), datasets=datasets, targets=targets, recipe=recipe)
        cells = [
            cell for selection in selections for cell in plan_with_references(selection, preflight.fingerprint).cells
        ]
        plans[name] = plan_cells(cells)
    store.prepare()
    measured = []
    for training in networks_to_measure(job for plan in plans.values() for job in plan.jobs):
        shape, classes = _input_format(training, store)
        speeds = measure_steps(training.target, shape, classes, training.recipe, device, seconds)
        seconds_per_pass = sum(1 / speed.images_per_second for speed in speeds) / len(speeds)
        record_time(training, store, device, seconds_per_pass * sum(training.passes().values()))
        measured += [speed.facts() for speed in speeds]
    missing = [
        f"data set {component_label(source)}: {failure.reason}" for source, failure in preflight.failures.items()
    ]
    return BenchReport(made_with(device), current_time(), measured, plans, missing)


def _input_format(training: Victim, store: Store) -> tuple[tuple[int, int, int], int]:
    """Return the shape of a data set's images and its number of classes, `ASSUMED_CLASSES` if it is not here."""
    source = training.source
    try:
        shape, classes = source.shape(), source.class_count()
        if shape is None or classes is None:
            data = load_dataset(source, training.fingerprint, store)
            channels, height, width = data.test.images.shape[1:]
            return (channels, height, width), len(data.classes)
    except UserError:
        shape, classes = source.shape(), ASSUMED_CLASSES
        if shape is None:
            raise
    return shape, classes
