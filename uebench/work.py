"""Does a job: `protect` makes and releases a noise, `run` trains on it; the only code that touches store and device."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import Module

from uebench import audit, choosing, forecast, log, result, spec
from uebench.api import Dataset, Split, Target, UserError
from uebench.data import complete, kept, load, names, split, untested
from uebench.gallery import sheet
from uebench.journal import Report, StoredJournal
from uebench.pixels import Pixels
from uebench.place import Place, made_with, measure_from_here, now, peak
from uebench.plan import Cell, Job, Protect, Trial, Victim
from uebench.registry import registry
from uebench.result import Result
from uebench.seeds import derive, sow
from uebench.seen import filtered, trained_on
from uebench.store import Store, StoreError, pack
from uebench.train import Outcome, build, train


class LentContext:
    """What a noise is lent: the journal's steps, the data set's names and augmentation, surrogates and victims."""

    def __init__(self, job: Protect, data: Dataset, place: Place, journal: StoredJournal) -> None:
        self.device, self.classes, self.seed = place.device, len(data.classes), derive(job.seed, "noise")
        self.augment = job.source.augment
        self.steps, self.tell, self.keep, self.kept = journal.steps, journal.tell, journal.keep, journal.kept
        self._job, self._data, self._place, self._report = job, data, place, journal.report

    @property
    def names(self) -> Sequence[str]:
        """What each training image is called."""
        return names(self._data)

    def network(self, target: Target | str, trained: bool = False) -> Module:
        """Return a freshly initialised surrogate, or a victim."""
        if isinstance(target, str):
            target = cast(Target, registry().build("target", target))
        seed = derive(self._job.seed, "surrogate")
        network = build(target, self._data.test.images.shape[1:], self.classes, self._job.precision, self.device, seed)
        if trained:
            victims = [victim for victim in self._job.victims if victim.target == target]
            if not victims:
                raise audit.ContractError(
                    f"noise {self._job.noise.name} asks for a trained {target.name} that its victims() do not declare"
                )
            path = _artefact(victims[0], self._place, self._report)["weights.safetensors"]
            network.load_state_dict(safetensors.torch.load_file(path))
        return network


def teach(job: Victim, place: Place, report: Report) -> None:
    """Train a victim on the clean set, and store its weights."""
    data = load(job.source, job.fingerprint, place.store)
    seed = derive(job.seed, "victim")
    journal = StoredJournal(place.store, job.key, seed, report, place.every)
    network = build(job.target, data.test.images.shape[1:], len(data.classes), job.recipe.precision, place.device, seed)
    outcome = train(
        network,
        _at(place, data.train),
        lambda: data.test,
        classes=len(data.classes),
        recipe=job.recipe,
        chain=(),
        augment=job.source.augment,
        journal=journal,
        seed=seed,
    )
    facts = {
        "test_accuracy": outcome.curve[-1][1],
        "train_accuracy": outcome.curve[-1][2],
        "seconds": journal.seconds,
        "made_with": made_with(place, job.source, job.target),
    }
    place.store.save(job.key, {"weights.safetensors": network.state_dict(), "facts.json": pack(facts)})
    forecast.note(job, place.store, place.device, journal.seconds)


def _at(place: Place, split: Split) -> Split:
    """Return a split with its labels on the device, and its images there or on the host."""
    return Split(split.images.to(place.home(split.images)), split.labels.to(place.device))


def protect(job: Protect, place: Place, report: Report) -> None:
    """Make a noise, audit it, and store the released images, pictures of some, and what is known of them."""
    measure_from_here(place.device)
    journal = StoredJournal(place.store, job.key, derive(job.seed, "noise"), report, place.every)
    data = untested(load(job.source, job.fingerprint, place.store))  # so that no noise finds a test image
    clean, labels = data.train.images, data.train.labels.to(place.device, copy=True)
    images = Pixels(clean.to(place.home(clean)), place.device)
    if not job.noise.streams and not place.holds(4 * clean.numel()):
        raise UserError(f"noise {job.noise.name} takes the whole set at once, which does not fit on {place.device}")
    context = LentContext(job, data, place, journal)
    sow(derive(job.seed, "noise"))
    delta = job.noise.make(cast(Tensor, images if job.noise.streams else images[:]), labels, context)
    seconds = journal.seconds
    released = audit.release(job.noise, clean, delta)
    facts = {
        **audit.visibility(clean, released, place.device),
        "noise_norm": job.noise.budget(clean.shape[1:]).norm,
        "noise_seconds": seconds,
        "peak_bytes": peak(place.device),
        "made_with": made_with(place, job.source, job.noise),
    }
    files = {"facts.json": pack(facts), "gallery.png": sheet(clean, released, data.train.labels)}
    place.store.save(job.key, {"released.safetensors": {"images": released}, **files})
    forecast.note(job, place.store, place.device, seconds)


def _artefact(job: Job, place: Place, report: Report) -> dict[str, Path]:
    """Return the files of a job that others need, doing it first where it is not done."""
    files = place.store.find(job.key)
    if files is None:
        with place.store.lock(job.key, wait=True):
            files = place.store.find(job.key)
            if files is None:
                do(job, place, report)
                files = place.store.find(job.key)
    assert files
    return files


def _shown(cell: Cell, place: Place, released: Path) -> tuple[Split, torch.Size, int]:
    """Return the training set of a cell in place, the shape (c, h, w) that networks see, and the number of classes."""
    data = complete(cell.protect.source, load(cell.protect.source, cell.protect.fingerprint, place.store))
    chosen = trained_on(cell, safetensors.torch.load_file(released)["images"], data)
    return _at(place, chosen), data.test.images.shape[1:], len(data.classes)


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
    )


def run(cell: Cell, place: Place, report: Report) -> None:
    """Train one network on the released images and store its record."""
    measure_from_here(place.device)
    made = _artefact(cell.protect, place, report)
    facts = json.loads(made["facts.json"].read_bytes())
    journal = StoredJournal(place.store, cell.key, derive(cell.protect.seed, "train"), report, place.every)
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
        test_accuracy=outcome.curve[-1][1],
        train_accuracy=outcome.curve[-1][2],
        best_test_accuracy=max(test for _, test, _ in outcome.curve),
        curve=[{"step": step, "test_accuracy": test, "train_accuracy": seen} for step, test, seen in outcome.curve],
        **{name: facts[name] for name in ("noise_norm", "noise_linf", "noise_l2", "psnr", "ssim", "noise_seconds")},
        train_seconds=journal.seconds,
        peak_bytes=peak(place.device),
        flags=[*outcome.flags, *_flags(cell)],
        made_with=made_with(place, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
        finished=now(),
    )
    place.store.save(cell.key, {"result.json": record.line().encode()})
    forecast.note(cell, place.store, place.device, record.train_seconds)


def try_out(trial: Trial, place: Place, report: Report) -> None:
    """Train on a part of the released images, and store the accuracy on the rest of them."""
    measure_from_here(place.device)
    cell = trial.cell
    made = _artefact(cell.protect, place, report)
    journal = StoredJournal(place.store, trial.key, derive(cell.protect.seed, "train"), report, place.every)
    outcome = _broken(cell, place, journal, made["released.safetensors"], _untested, trial.held_out)
    facts = {
        "accuracy": outcome.curve[-1][1],
        "seconds": journal.seconds,
        "peak_bytes": peak(place.device),
        "made_with": made_with(place, cell.protect.source, cell.protect.noise, *cell.chain, cell.target),
    }
    place.store.save(trial.key, {"facts.json": pack(facts)})
    forecast.note(trial, place.store, place.device, journal.seconds)


def _untested() -> Split:
    raise AssertionError("a trial asks for test images")


def choose(cell: Cell, place: Place, report: Report) -> None:
    """Store the record of a cell whose chain chooses: that of the chosen chain, whose own cell it is."""
    facts = [json.loads(_artefact(one, place, report)["facts.json"].read_bytes()) for one in cell.trials]
    chosen = cell.trials[choosing.best(facts)].cell
    path = _artefact(chosen, place, report)["result.json"]
    own = result.parse(path.read_text("utf-8"), place=f"stored result {chosen.key}")
    tried = [breaker for one in cell.trials for breaker in one.cell.chain]
    plugins = made_with(place, *cell.chain, *tried)["plugins"]
    record = choosing.taken_over(own, cell, facts, plugins, now())
    place.store.save(cell.key, {"result.json": record.line().encode()})


def finished(job: Job, store: Store) -> Result | bool:
    """Return a finished cell's record, or whether another job is finished; a damaged one is not."""
    files = store.find(job.key, thorough=isinstance(job, Cell))  # of the others whoever uses them makes sure
    if files is None or not isinstance(job, Cell):
        return files is not None
    return result.parse(files["result.json"].read_text("utf-8"), place=f"stored result {job.key}")


def made_by(job: Job, store: Store) -> Mapping[str, str]:
    """Return the versions of the plug-ins that a finished job was done with; none of one that is not finished."""
    files = store.find(job.key, thorough=False)
    if files is None:
        return {}
    facts = json.loads(files["result.json" if isinstance(job, Cell) else "facts.json"].read_bytes())
    versions: Mapping[str, str] = facts.get("made_with", {}).get("plugins", {})  # old victims have none
    return versions


def do(job: Job, place: Place, report: Report) -> None:
    """Do a job and store what comes of it, with a log."""
    told = {name: value for name, value in made_with(place).items() if name in log.EVENTS["started"]}
    log.note(place.store, job.key, "started", **told)
    try:
        if isinstance(job, Victim):
            teach(job, place, report)
        elif isinstance(job, Protect):
            protect(job, place, report)
        elif isinstance(job, Trial):
            try_out(job, place, report)
        elif job.trials:
            choose(job, place, report)
        else:
            run(job, place, report)
    except Exception as error:
        with suppress(StoreError):  # which may be what failed
            log.note(place.store, job.key, "failed", error=type(error).__name__)
        raise
    if isinstance(
        job, Victim | Protect
    ):  # exceptions that libraries caught hold frames, and so what no breaker may find
        gc.collect()


def perform(job: Job, place: Place, report: Report) -> Result | bool:
    """Do a job unless it is finished; raises `store.Busy` where another process is at it."""
    with place.store.lock(job.key):
        done = finished(job, place.store)
        if not done:
            do(job, place, report)
            done = finished(job, place.store)
    return done
