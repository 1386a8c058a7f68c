"""What a plan costs: passes through networks, and time at the rates that this store has measured so far."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from statistics import median
from typing import Any

import torch

from uebench.components.interfaces import Target
from uebench.components.recipe import Recipe
from uebench.components.spec import canonical_text, chain_alternatives
from uebench.jobs.environment import device_name
from uebench.planning.plan import Cell, Job, Protect, Trial, Victim
from uebench.storage.atomic_files import canonical_json
from uebench.storage.store import Store

RATES_FILE = "rates.jsonl"
"""The file of measured times in a store, one job a line."""


def count_passes(job: Job) -> dict[Target, float]:
    """Return the passes, forward and backward, of one image through each network; nothing where they are not known."""
    if isinstance(job, Protect):
        count = job.source.count()
        return {} if count is None else dict(job.noise.passes(count))
    if isinstance(job, Trial):
        return count_passes(job.cell)
    chains = (chain_alternatives(job.chain) or [job.chain]) if isinstance(job, Cell) else [()]
    attacked = max(sum(breaker.passes() for breaker in chain) for chain in chains)  # at most, where one is chosen
    return {job.target: job.recipe.steps * job.recipe.batch * (1 + attacked)}


def _where(device: torch.device) -> str:
    """Return what times are measured on."""
    return device_name(device) + ("" if device.type == "cuda" else f", {torch.get_num_threads()} threads")


def _spent(job: Job, where: str) -> tuple[tuple[str, ...], float]:
    """Return what a job spends its time on, data set, precision and device included, and how much of it.

    That is passes through one network; where they are not known, or go through several, the whole noise once.
    """
    if isinstance(job, Trial):
        return _spent(job.cell, where)
    source = job.protect.source if isinstance(job, Cell) else job.source
    precision = job.precision if isinstance(job, Protect) else job.recipe.precision
    found = count_passes(job)
    if isinstance(job, Protect) and len(found) != 1:
        component, amount = canonical_text(job.noise), 1.0
    else:
        ((network, amount),) = found.items()
        component = canonical_text(network)
    return (component, canonical_text(source), precision, where), amount


def record_time(job: Job, store: Store, device: torch.device, seconds: float) -> None:
    """Add a job's time to those measured in a store; where that fails, the job is done all the same."""
    what, amount = _spent(job, _where(device))
    line = canonical_json({"what": what, "amount": amount, "seconds": seconds}) + b"\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with suppress(OSError), os.fdopen(os.open(store.root / RATES_FILE, flags, 0o666), "wb") as file:
        file.write(line)  # one write: nobody's comes between


def _rates(store: Store) -> dict[tuple[str, ...], float]:
    """Return the median seconds of a pass, or of a whole noise, for everything measured; odd lines are passed over."""
    found: dict[tuple[str, ...], list[float]] = defaultdict(list)
    try:
        lines = (store.root / RATES_FILE).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            one: dict[str, Any] = json.loads(line)
            what, rate = tuple(one["what"]), one["seconds"] / one["amount"]
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            continue
        found[what].append(rate)
    return {what: median(rates) for what, rates in found.items()}


def estimate_seconds(jobs: Iterable[Job], store: Store, device: torch.device) -> list[float | None]:
    """Return the time that each job takes one worker, None where nothing like it was measured on this device."""
    rates, where = _rates(store), _where(device)
    found = []
    for job in jobs:
        what, amount = _spent(job, where)
        found.append(amount * rates[what] if what in rates else None)
    return found


def networks_to_measure(jobs: Iterable[Job]) -> list[Victim]:
    """Return a plain training job for each network, data set and precision that jobs spend their passes on."""
    found = dict[tuple[str, ...], Victim]()
    for job in jobs:
        job = job.cell if isinstance(job, Trial) else job
        protect = job.protect if isinstance(job, Cell) else job
        precision = job.precision if isinstance(job, Protect) else job.recipe.precision
        for network in count_passes(job):
            one = Victim(protect.source, protect.fingerprint, network, Recipe(precision=precision), 0)
            found.setdefault((canonical_text(network), canonical_text(protect.source), precision), one)
    return list(found.values())
