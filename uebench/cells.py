"""Trains a cell's network on released images and tests it; tries what its chain may choose, and chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from uebench import choosing, forecast, result, spec
from uebench.api import Split
from uebench.data import complete, kept, load, split
from uebench.files import pack
from uebench.journal import Report, StoredJournal
from uebench.origin import code, made_with, now
from uebench.place import Place, measure_from_here, peak
from uebench.plan import Cell, Trial
from uebench.precision import settle
from uebench.protecting import Artefact
from uebench.result import Point, Result
from uebench.seeds import derive
from uebench.seen import filtered, trained_on
from uebench.train import Outcome, build, train


def _shown(cell: Cell, place: Place, released: Path) -> tuple[Split, torch.Size, int]:
    """Return the training set of a cell in place, the shape (c, h, w) that networks see, and the number of classes."""
    data = complete(cell.protect.source, load(cell.protect.source, cell.protect.fingerprint, place.store))
    chosen = trained_on(cell, safetensors.torch.load_file(released)["images"], data)
    return place.take(chosen), data.test.images.shape[1:], len(data.classes)


def _flags(cell: Cell) -> Iterator[str]:
    if cell.target in [getattr(cell.protect.noise, name) for name in spec.kinds(type(cell.protect.noise))]:
        yield "surrogate-equals-target"


def _broken(
    cell: Cell, place: Place, journal: StoredJournal, released: Path, test: Callable[[], Split], held_out: float = 0
) -> Outcome:
    """Train a cell's network on what its chain makes of the released images, and test it.

    While breakers are at work, neither clean images nor test images are in memory, but for what a share leaves clean.
    With a share that is held out, the network is trained without it and tested on it, at the end only.
    """
    settle(cell.recipe.precision, place.device)
    seen, shape, classes = _shown(cell, place, released)
    recipe = cell.recipe
    if held_out:
        seen, rest = choosing.parted(seen, held_out, cell.protect.seed)
        test, recipe = (lambda: rest), replace(recipe, evaluations=1)
    images = filtered(cell.chain, seen.images, seen.labels, derive(cell.protect.seed, "filter"))
    return train(
        build(cell.target, shape, classes, recipe.precision, place.device, journal.seed),
        Split(images, seen.labels),
        test,
        classes=classes,
        recipe=recipe,
        chain=cell.chain,
        augment=cell.protect.source.augment,
        journal=journal,
        seed=journal.seed,
        mirrors=cell.protect.source.mirrors(),
    )


def _journal(cell: Cell, key: str, place: Place, report: Report) -> StoredJournal:
    own = code(cell.protect.source, *cell.chain, cell.target)
    return StoredJournal(place.store, key, derive(cell.protect.seed, "train"), report, place.every, own)


def run(cell: Cell, place: Place, report: Report, artefact: Artefact) -> None:
    """Train one network on the released images and store its record."""
    measure_from_here(place.device)
    made = artefact(cell.protect)
    facts = json.loads(made["facts.json"].read_bytes())
    journal = _journal(cell, cell.key, place, report)
    files = kept(cell.protect.source, cell.protect.fingerprint, place.store)
    outcome = _broken(cell, place, journal, made["released.safetensors"], lambda: split(files, "test"))
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
        test_accuracy=outcome.curve[-1].test_accuracy,
        train_accuracy=outcome.curve[-1].train_accuracy,
        best_test_accuracy=max(point.test_accuracy for point in outcome.curve),
        curve=[Point(*point) for point in outcome.curve],
        **{name: facts[name] for name in ("noise_norm", "noise_linf", "noise_l2", "psnr", "ssim", "noise_seconds")},
        train_seconds=journal.seconds,
        peak_bytes=peak(place.device),
        flags=[*outcome.flags, *_flags(cell)],
        made_with=made_with(place.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
        finished=now(),
    )
    place.store.save(cell.key, {"result.json": record.line().encode()})
    forecast.note(cell, place.store, place.device, record.train_seconds)


def try_out(trial: Trial, place: Place, report: Report, artefact: Artefact) -> None:
    """Train on a part of the released images, and store the accuracy on the rest of them."""
    measure_from_here(place.device)
    cell = trial.cell
    made = artefact(cell.protect)
    journal = _journal(cell, trial.key, place, report)
    outcome = _broken(cell, place, journal, made["released.safetensors"], _untested, trial.held_out)
    facts = {
        "accuracy": outcome.curve[-1].test_accuracy,
        "seconds": journal.seconds,
        "peak_bytes": peak(place.device),
        "made_with": made_with(place.device, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
    }
    place.store.save(trial.key, {"facts.json": pack(facts)})
    forecast.note(trial, place.store, place.device, journal.seconds)


def _untested() -> Split:
    raise AssertionError("a trial asks for test images")


def choose(cell: Cell, place: Place, artefact: Artefact) -> None:
    """Store the record of a cell whose chain chooses: that of the chosen chain, whose own cell it is."""
    facts = [json.loads(artefact(one)["facts.json"].read_bytes()) for one in cell.trials]
    chosen = cell.trials[choosing.best(facts)].cell
    path = artefact(chosen)["result.json"]
    own = result.parse(path.read_bytes(), place=f"stored result {chosen.key}")
    tried = [breaker for one in cell.trials for breaker in one.cell.chain]
    plugins = made_with(place.device, *cell.chain, *tried)["plugins"]
    record = choosing.taken_over(own, cell, facts, plugins, now())
    place.store.save(cell.key, {"result.json": record.line().encode()})
