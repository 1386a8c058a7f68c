"""Trains a cell's network on released images and tests it; tries what its chain may choose, and chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from uebench.components.interfaces import Split
from uebench.components.spec import component_label, parameter_types
from uebench.compute.precision import set_precision
from uebench.compute.seeds import derive_seed
from uebench.compute.train import TrainingOutcome, build_network, train_network
from uebench.jobs.checkpoint import ReportStep, StoredProgress
from uebench.jobs.choice import best_trial, record_of_choice, split_held_out
from uebench.jobs.datasets import dataset_files, load_dataset, load_split, require_test_split
from uebench.jobs.environment import current_time, hash_component_code, made_with
from uebench.jobs.forecast import record_time
from uebench.jobs.protect import Artefact
from uebench.jobs.training_set import apply_filters, training_split
from uebench.jobs.workspace import Workspace, peak_memory, reset_peak_memory
from uebench.planning.plan import Cell, Trial
from uebench.storage.atomic_files import canonical_json
from uebench.storage.result import CurvePoint, Result, parse_result


def _load_training_split(cell: Cell, place: Workspace, released: Path) -> tuple[Split, torch.Size, int]:
    """Return the training set of a cell in place, the shape (c, h, w) that networks see, and the number of classes."""
    data = require_test_split(
        cell.protect.source, load_dataset(cell.protect.source, cell.protect.fingerprint, place.store)
    )
    chosen = training_split(cell, safetensors.torch.load_file(released)["images"], data)
    return place.take(chosen), data.test.images.shape[1:], len(data.classes)


def _flags(cell: Cell) -> Iterator[str]:
    if cell.target in [getattr(cell.protect.noise, name) for name in parameter_types(type(cell.protect.noise))]:
        yield "surrogate-equals-target"


def _train_under_breakers(
    cell: Cell,
    place: Workspace,
    journal: StoredProgress,
    released: Path,
    test: Callable[[], Split],
    held_out: float = 0,
) -> TrainingOutcome:
    """Train a cell's network on what its chain makes of the released images, and test it.

    While breakers are at work, neither clean images nor test images are in memory, but for what a share leaves clean.
    With a share that is held out, the network is trained without it and tested on it, at the end only.
    """
    set_precision(cell.recipe.precision, place.device)
    seen, shape, classes = _load_training_split(cell, place, released)
    recipe = cell.recipe
    if held_out:
        seen, rest = split_held_out(seen, held_out, cell.protect.seed)
        test, recipe = (lambda: rest), replace(recipe, evaluations=1)
    images = apply_filters(cell.chain, seen.images, seen.labels, derive_seed(cell.protect.seed, "filter"))
    return train_network(
        build_network(cell.target, shape, classes, recipe.precision, place.device, journal.seed),
        Split(images, seen.labels),
        test,
        classes=classes,
        recipe=recipe,
        chain=cell.chain,
        augment=cell.protect.source.augment,
        progress=journal,
        seed=journal.seed,
        mirrors=cell.protect.source.mirrors(),
    )


def _journal(cell: Cell, key: str, place: Workspace, report: ReportStep) -> StoredProgress:
    own = hash_component_code(cell.protect.source, *cell.chain, cell.target)
    return StoredProgress(place.store, key, derive_seed(cell.protect.seed, "train"), report, place.every, own)


def run_cell(cell: Cell, place: Workspace, report: ReportStep, artefact: Artefact) -> None:
    """Train one network on the released images and store its record."""
    reset_peak_memory(place.device)
    made = artefact(cell.protect)
    facts = json.loads(made["facts.json"].read_bytes())
    journal = _journal(cell, cell.key, place, report)
    files = dataset_files(cell.protect.source, cell.protect.fingerprint, place.store)
    outcome = _train_under_breakers(
        cell, place, journal, made["released.safetensors"], lambda: load_split(files, "test")
    )
    record = Result(
        key=cell.key,
        suite="",
        dataset=component_label(cell.protect.source),
        noise=component_label(cell.protect.noise),
        breaker="+".join(component_label(breaker) for breaker in cell.chain),
        target=component_label(cell.target),
        parameters=cell.parameters,
        protected=cell.protected,
        kind=cell.kind,
        seed=cell.protect.seed,
        recipe=component_label(cell.recipe),
        test_accuracy=outcome.curve[-1].test_accuracy,
        train_accuracy=outcome.curve[-1].train_accuracy,
        best_test_accuracy=max(point.test_accuracy for point in outcome.curve),
        curve=[CurvePoint(*point) for point in outcome.curve],
        **{name: facts[name] for name in ("noise_norm", "noise_linf", "noise_l2", "psnr", "ssim", "noise_seconds")},
        train_seconds=journal.seconds,
        peak_bytes=peak_memory(place.device),
        flags=[*outcome.flags, *_flags(cell)],
        made_with=made_with(place.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
        finished=current_time(),
    )
    place.store.save(cell.key, {"result.json": record.line().encode()})
    record_time(cell, place.store, place.device, record.train_seconds)


def run_trial(trial: Trial, place: Workspace, report: ReportStep, artefact: Artefact) -> None:
    """Train on a part of the released images, and store the accuracy on the rest of them."""
    reset_peak_memory(place.device)
    cell = trial.cell
    made = artefact(cell.protect)
    journal = _journal(cell, trial.key, place, report)
    outcome = _train_under_breakers(cell, place, journal, made["released.safetensors"], _untested, trial.held_out)
    facts = {
        "accuracy": outcome.curve[-1].test_accuracy,
        "seconds": journal.seconds,
        "peak_bytes": peak_memory(place.device),
        "made_with": made_with(place.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
    }
    place.store.save(trial.key, {"facts.json": canonical_json(facts)})
    record_time(trial, place.store, place.device, journal.seconds)


def _untested() -> Split:
    raise AssertionError("a trial asks for test images")


def run_choice(cell: Cell, place: Workspace, artefact: Artefact) -> None:
    """Store the record of a cell whose chain chooses: that of the chosen chain, whose own cell it is."""
    facts = [json.loads(artefact(trial)["facts.json"].read_bytes()) for trial in cell.trials]
    chosen = cell.trials[best_trial(facts)].cell
    path = artefact(chosen)["result.json"]
    own = parse_result(path.read_bytes(), place=f"stored result {chosen.key}")
    tried = [breaker for trial in cell.trials for breaker in trial.cell.chain]
    plugins = made_with(place.device, *cell.chain, *tried)["plugins"]
    record = record_of_choice(own, cell, facts, plugins, current_time())
    place.store.save(cell.key, {"result.json": record.line().encode()})
