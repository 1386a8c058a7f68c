"""Trains the network of a cell on released images and tests it; runs trials for a chain that chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from uebench.components.interfaces import Split
from uebench.components.spec import parameter_types
from uebench.compute.precision import set_precision
from uebench.compute.seeds import derive_seed
from uebench.compute.train import TrainingOutcome, build_network, train_network
from uebench.jobs.checkpoint import ReportStep, StoredProgress
from uebench.jobs.choice import best_trial, record_of_choice, split_held_out
from uebench.jobs.datasets import dataset_files, load_dataset, load_split, require_test_split
from uebench.jobs.environment import current_time, hash_component_code, made_with
from uebench.jobs.forecast import record_time
from uebench.jobs.protect import FindFiles
from uebench.jobs.tensor_files import load_tensors
from uebench.jobs.training_set import apply_filters, training_split
from uebench.jobs.workspace import Workspace, peak_memory, reset_peak_memory
from uebench.planning.plan import Cell, Trial
from uebench.storage.atomic_files import canonical_json
from uebench.storage.job_log import log_event
from uebench.storage.result import LABEL_FIELDS, SEPARABILITY_FIELDS, CurvePoint, Result, parse_result
from uebench.storage.store import Store


def _load_training_split(cell: Cell, workspace: Workspace, released: Path) -> tuple[Split, torch.Size, int]:
    """Return the training set of a cell on its device, the shape (c, h, w) of images, and the number of classes."""
    data = require_test_split(
        cell.protect.source, load_dataset(cell.protect.source, cell.protect.fingerprint, workspace.store)
    )
    split = training_split(cell, load_tensors(released)["images"], data)
    return workspace.take(split), data.test.images.shape[1:], len(data.classes)


def _flags(cell: Cell) -> Iterator[str]:
    if cell.target in [getattr(cell.protect.noise, name) for name in parameter_types(type(cell.protect.noise))]:
        yield "surrogate-equals-target"


def _train_under_breakers(
    cell: Cell,
    workspace: Workspace,
    progress: StoredProgress,
    released: Path,
    test: Callable[[], Split],
    held_out: float = 0,
) -> TrainingOutcome:
    """Train the network of a cell on the released images, under its chain of breakers, and test it.

    While breakers work, no test image is in memory, and no clean image but those that a share leaves unprotected. With
    a held-out share the network is trained without it and tested on it, once, at the end.
    """
    set_precision(cell.recipe.precision, workspace.device)
    training, shape, classes = _load_training_split(cell, workspace, released)
    recipe = cell.recipe
    if held_out:
        training, held = split_held_out(training, held_out, cell.protect.seed)
        test, recipe = (lambda: held), replace(recipe, evaluations=1)
    images = apply_filters(cell.chain, training.images, training.labels, derive_seed(cell.protect.seed, "filter"))
    return train_network(
        build_network(cell.target, shape, classes, recipe.precision, workspace.device, progress.seed),
        Split(images, training.labels),
        test,
        classes=classes,
        recipe=recipe,
        chain=cell.chain,
        augment=cell.protect.source.augment,
        progress=progress,
        seed=progress.seed,
        mirrors=cell.protect.source.mirrors(),
    )


def _open_progress(cell: Cell, key: str, workspace: Workspace, report: ReportStep) -> StoredProgress:
    code = hash_component_code(cell.protect.source, *cell.chain, cell.target)
    return StoredProgress(workspace.store, key, derive_seed(cell.protect.seed, "train"), report, workspace.every, code)


def run_cell(cell: Cell, workspace: Workspace, report: ReportStep, find_files: FindFiles) -> None:
    """Train one network on the released images and store its result, without labels."""
    reset_peak_memory(workspace.device)
    released = find_files(cell.protect)
    facts = json.loads(released["facts.json"].read_bytes())
    progress = _open_progress(cell, cell.key, workspace, report)
    files = dataset_files(cell.protect.source, cell.protect.fingerprint, workspace.store)
    outcome = _train_under_breakers(
        cell, workspace, progress, released["released.safetensors"], lambda: load_split(files, "test")
    )
    result = Result(
        key=cell.key,
        **dict.fromkeys(LABEL_FIELDS, ""),  # type: ignore[arg-type]
        parameters=cell.parameters,
        protected=cell.protected,
        kind=cell.kind,
        seed=cell.protect.seed,
        test_accuracy=outcome.curve[-1].test_accuracy,
        train_accuracy=outcome.curve[-1].train_accuracy,
        best_test_accuracy=max(point.test_accuracy for point in outcome.curve),
        curve=[CurvePoint(*point) for point in outcome.curve],
        **{name: facts[name] for name in ("noise_norm", "noise_linf", "noise_l2", "psnr", "ssim", "noise_seconds")},
        **{name: facts.get(name) for name in SEPARABILITY_FIELDS},  # older noises have none
        train_seconds=progress.seconds,
        peak_bytes=peak_memory(workspace.device),
        flags=[*outcome.flags, *facts.get("flags", []), *_flags(cell)],  # older noises have none
        made_with=made_with(workspace.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
        finished=current_time(),
    )
    _store_result(cell, result, workspace.store)
    record_time(cell, workspace.store, workspace.device, result.train_seconds)


def _store_result(cell: Cell, result: Result, store: Store) -> None:
    """Finish a cell: its accuracies go into its log and its record."""
    accuracies = {"test_accuracy": result.test_accuracy, "train_accuracy": result.train_accuracy}
    log_event(store, cell.key, "tested", **accuracies)
    store.save(cell.key, {"result.json": result.line().encode()})


def run_trial(trial: Trial, workspace: Workspace, report: ReportStep, find_files: FindFiles) -> None:
    """Train on a part of the released images, and store the accuracy on the held-out rest."""
    reset_peak_memory(workspace.device)
    cell = trial.cell
    released = find_files(cell.protect)
    progress = _open_progress(cell, trial.key, workspace, report)
    outcome = _train_under_breakers(
        cell, workspace, progress, released["released.safetensors"], _refuse_test_images, trial.held_out
    )
    facts = {
        "accuracy": outcome.curve[-1].test_accuracy,
        "seconds": progress.seconds,
        "peak_bytes": peak_memory(workspace.device),
        "made_with": made_with(workspace.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
    }
    workspace.store.save(trial.key, {"facts.json": canonical_json(facts)})
    record_time(trial, workspace.store, workspace.device, progress.seconds)


def _refuse_test_images() -> Split:
    raise AssertionError("a trial uses no test images")


def run_choice(cell: Cell, workspace: Workspace, find_files: FindFiles) -> None:
    """Store the result of a cell whose chain chooses: that of the cell with the chosen chain."""
    facts = [json.loads(find_files(trial)["facts.json"].read_bytes()) for trial in cell.trials]
    chosen = cell.trials[best_trial(facts)].cell
    path = find_files(chosen)["result.json"]
    own = parse_result(path.read_bytes(), source=f"stored result {chosen.key}")
    members = [breaker for trial in cell.trials for breaker in trial.cell.chain]
    plugins = made_with(workspace.device, *cell.chain, *members)["plugins"]
    result = record_of_choice(own, cell, facts, plugins, current_time())
    _store_result(cell, result, workspace.store)
