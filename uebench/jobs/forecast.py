"""Forecasts the time of jobs, at the rates that were measured in this store."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from statistics import median
from typing import Any

import torch

from uebench.components.recipe import Recipe
from uebench.components.spec import canonical_text
from uebench.jobs.environment import device_name
from uebench.planning.plan import Job, Victim
from uebench.storage.atomic_files import canonical_json
from uebench.storage.store import Store

RATES_FILE = "rates.jsonl"
"""The file of measured times in a store, one job a line."""


def _device_text(device: torch.device) -> str:
    """Return the device on which times are measured, in words."""
    return device_name(device) + ("" if device.type == "cuda" else f", {torch.get_num_threads()} threads")


def _work_unit(job: Job, device: str) -> tuple[tuple[str, ...], float]:
    """Return the kind of work that a job consists of (network, data set, precision, device) and its amount.

    The amount is the number of passes through the network. For a noise that uses several networks, or an unknown
    number of passes, the kind of work is the whole noise and the amount 1.
    """
    passes = job.passes()
    if len(passes) == 1:
        ((network, amount),) = passes.items()
        component = canonical_text(network)
    else:
        assert job.protect
        component, amount = canonical_text(job.protect.noise), 1.0
    return (component, canonical_text(job.source), job.precision, device), amount


def record_time(job: Job, store: Store, device: torch.device, seconds: float) -> None:
    """Add the measured time of a job to the store; an error of the disk does not fail the job."""
    unit, amount = _work_unit(job, _device_text(device))
    line = canonical_json({"what": unit, "amount": amount, "seconds": seconds}) + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with suppress(OSError), os.fdopen(os.open(store.root / RATES_FILE, flags, 0o666), "wb") as file:
        file.write(line)  # one write, so that lines of several processes do not mix


def _read_rates(store: Store) -> dict[tuple[str, ...], float]:
    """Return the median seconds per unit for each kind of work that was measured; damaged lines are left out."""
    rates: dict[tuple[str, ...], list[float]] = defaultdict(list)
    try:
        lines = (store.root / RATES_FILE).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            measurement: dict[str, Any] = json.loads(line)
            unit, rate = tuple(measurement["what"]), measurement["seconds"] / measurement["amount"]
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            continue
        rates[unit].append(rate)
    return {unit: median(values) for unit, values in rates.items()}


def estimate_seconds(jobs: Iterable[Job], store: Store, device: torch.device | str) -> list[float | None]:
    """Return the time of each job on one worker, None where no such work was measured on this device."""
    rates, name = _read_rates(store), _device_text(torch.device(device))
    units = [_work_unit(job, name) for job in jobs]
    return [amount * rates[unit] if unit in rates else None for unit, amount in units]


def estimate_work(jobs: Iterable[Job], store: Store, device: torch.device | str) -> dict[str, float]:
    """Return the work of each job by key: its seconds where every job's time was measured, else its passes."""
    jobs = list(jobs)
    times = estimate_seconds(jobs, store, device)
    measured = [seconds for seconds in times if seconds is not None]
    work = measured if len(measured) == len(jobs) else [sum(job.passes().values()) for job in jobs]
    return {job.key: amount for job, amount in zip(jobs, work, strict=True)}


def networks_to_measure(jobs: Iterable[Job]) -> list[Victim]:
    """Return a plain training job for each network, data set and precision that jobs use."""
    measured = dict[tuple[str, ...], Victim]()
    for job in jobs:
        unknown_count = dict(job.protect.noise.passes(1)) if job.protect else {}
        for network in job.passes() or unknown_count:
            training = Victim(job.source, job.fingerprint, network, Recipe(precision=job.precision), 0)
            measured.setdefault((canonical_text(network), canonical_text(job.source), job.precision), training)
    return list(measured.values())
