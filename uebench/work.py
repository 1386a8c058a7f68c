"""Does a job: `protect` makes and releases a noise, `run` trains on it; the only code that touches store and device."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import safetensors.torch
import torch
import torchvision
from torch import Tensor
from torch.nn import Module

import uebench
from uebench import audit, result, spec
from uebench.api import Breaker, Component, Dataset, Split, Target
from uebench.data import load
from uebench.journal import Report, StoredJournal
from uebench.kit import to_bytes, to_float
from uebench.plan import Cell, Job, Protect
from uebench.registry import registry
from uebench.result import Result
from uebench.seeds import derive, sow
from uebench.store import Store, pack
from uebench.train import build, train


@dataclass(frozen=True)
class Place:
    """Where work is done: the store, the device, and the seconds between two states that a long job keeps."""

    store: Store
    device: torch.device
    every: float = 60.0


class LentContext:
    """What a noise is lent: the journal's steps, the data set's augmentation, and fresh surrogates."""

    def __init__(self, job: Protect, data: Dataset, place: Place, journal: StoredJournal) -> None:
        self.device, self.classes, self.seed = place.device, len(data.classes), derive(job.seed, "noise")
        self.augment = job.source.augment
        self.steps, self.keep, self.kept = journal.steps, journal.keep, journal.kept
        self._job, self._shape = job, data.train.images.shape[1:]

    def network(self, target: Target | str) -> Module:
        """Return a freshly initialised surrogate."""
        if isinstance(target, str):
            target = cast(Target, registry().build("target", target))
        seed = derive(self._job.seed, "surrogate")
        return build(target, self._shape, self.classes, self._job.precision, self.device, seed)


def made_with(place: Place, *components: Component) -> dict[str, Any]:
    """Return the versions and the device that a number was made with."""
    on_gpu = place.device.type == "cuda"
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "uebench": uebench.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(place.device) if on_gpu else cpu,
        "threads": None if on_gpu else torch.get_num_threads(),
        "plugins": dict(sorted({registry().origin(component) for component in components})),
    }


def _measure_from_here(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def protect(job: Protect, place: Place, report: Report) -> Mapping[str, bytes]:
    """Make a noise, audit it, and store the released images and what is known of them; returns the stored files."""
    _measure_from_here(place.device)
    journal = StoredJournal(place.store, job.key, derive(job.seed, "noise"), report, place.every)
    data = load(job.source, job.fingerprint, place.store)
    clean, labels = data.train.images.to(place.device), data.train.labels.to(place.device, copy=True)
    sow(derive(job.seed, "noise"))
    delta = job.noise.make(to_float(clean), labels, LentContext(job, data, place, journal))
    released = audit.release(job.noise, clean, delta)
    facts = {
        **audit.visibility(clean, released),
        "noise_seconds": journal.seconds,
        "peak_bytes": _peak(place.device),
        "made_with": made_with(place, job.source, job.noise),
    }
    files = {"released.safetensors": safetensors.torch.save({"images": released.cpu()}), "facts.json": pack(facts)}
    place.store.save(job.key, files)
    return files


def _artefact(job: Protect, place: Place, report: Report) -> tuple[Tensor, dict[str, Any]]:
    files: Mapping[str, bytes] | None = place.store.load(job.key)
    if files is None:
        with place.store.lock(job.key, wait=True):
            files = place.store.load(job.key) or protect(job, place, report)
    return safetensors.torch.load(files["released.safetensors"])["images"], json.loads(files["facts.json"])


def filtered(chain: tuple[Breaker, ...], images: Tensor, seed: int) -> Tensor:
    """Pass uint8 images (n, c, h, w) through the filters of a chain; each result is rounded to 8 bits."""
    sow(seed)
    for breaker in chain:
        if type(breaker).filter is not Breaker.filter:
            found = breaker.filter(to_float(images))
            if found.shape != images.shape or not found.is_floating_point() or not bool(found.isfinite().all()):
                raise audit.ContractError(
                    f"breaker {breaker.name}: filter must return finite floats of its input's shape"
                )
            images = to_bytes(found)
    return images


def trained_on(cell: Cell, released: Tensor, data: Dataset) -> Split:
    """Return the training set of a cell; the protected share is one draw per data set, share and seed."""
    count = len(data.train.labels)
    seed = derive(cell.protect.seed, "share", spec.number(cell.protected))
    protected = torch.randperm(count, generator=torch.Generator().manual_seed(seed)) < round(cell.protected * count)
    if cell.kind == "clean-only":
        return Split(data.train.images[~protected], data.train.labels[~protected])
    images = torch.where(protected[:, None, None, None], released, data.train.images)
    return Split(images, data.train.labels)


def _flags(cell: Cell) -> Iterator[str]:
    if cell.target in [getattr(cell.protect.noise, name) for name in spec.kinds(type(cell.protect.noise))]:
        yield "surrogate-equals-target"


def run(cell: Cell, place: Place, report: Report) -> Mapping[str, bytes]:
    """Train one network on the released images and store its record; returns the stored files."""
    _measure_from_here(place.device)
    released, facts = _artefact(cell.protect, place, report)
    seed = derive(cell.protect.seed, "train")
    journal = StoredJournal(place.store, cell.key, seed, report, place.every)
    data = load(cell.protect.source, cell.protect.fingerprint, place.store)
    chosen = trained_on(cell, released, data)
    images = filtered(cell.chain, chosen.images.to(place.device), derive(cell.protect.seed, "filter"))
    target, recipe, classes = cell.target, cell.recipe, len(data.classes)
    outcome = train(
        build(target, images.shape[1:], classes, recipe.precision, place.device, seed),
        Split(images, chosen.labels.to(place.device)),
        Split(data.test.images.to(place.device), data.test.labels.to(place.device)),
        classes=classes,
        recipe=recipe,
        chain=cell.chain,
        augment=cell.protect.source.augment,
        journal=journal,
        seed=seed,
    )
    record = Result(
        key=cell.key,
        suite="",
        dataset=spec.label(cell.protect.source),
        noise=spec.label(cell.protect.noise),
        breaker="+".join(spec.label(one) for one in cell.chain),
        target=spec.label(cell.target),
        parameters=cell.parameters,
        protected=cell.protected,
        kind=cell.kind,
        seed=cell.protect.seed,
        recipe=spec.label(cell.recipe),
        test_accuracy=outcome.curve[-1][1],
        train_accuracy=outcome.curve[-1][2],
        best_test_accuracy=max(test for _, test, _ in outcome.curve),
        curve=[{"step": step, "test_accuracy": test, "train_accuracy": seen} for step, test, seen in outcome.curve],
        **{name: facts[name] for name in ("noise_linf", "noise_l2", "psnr", "ssim", "noise_seconds")},
        train_seconds=journal.seconds,
        peak_bytes=_peak(place.device),
        flags=[*outcome.flags, *_flags(cell)],
        made_with=made_with(place, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    files = {"result.json": record.line().encode()}
    place.store.save(cell.key, files)
    return files


def finished(job: Job, store: Store) -> Result | bool:
    """Return a finished cell's record, or whether a noise is finished; a damaged one is not."""
    files = store.load(job.key)
    if files is None or isinstance(job, Protect):
        return files is not None
    return result.parse(files["result.json"].decode(), place=f"stored result {job.key}")


def perform(job: Job, place: Place, report: Report) -> Result | bool:
    """Do a job unless it is finished; raises `store.Busy` where another process is at it."""
    with place.store.lock(job.key):
        done = finished(job, place.store)
        if not done:
            if isinstance(job, Protect):
                protect(job, place, report)
            else:
                run(job, place, report)
            done = finished(job, place.store)
    return done
