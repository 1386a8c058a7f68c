"""Does a job once: `teach` trains a victim, `protect` makes and releases a noise, `cells` trains on it."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from uebench import audit, cells, forecast, log, result
from uebench.api import Dataset, Target
from uebench.component import UserError
from uebench.data import load, names, untested
from uebench.files import StoreError, pack
from uebench.gallery import sheet
from uebench.journal import Report, StoredJournal
from uebench.pixels import Pixels
from uebench.place import Place, code, made_with, measure_from_here, peak
from uebench.plan import Cell, Job, Protect, Trial, Victim
from uebench.precision import settle
from uebench.registry import registry
from uebench.result import Result
from uebench.seeds import derive, sow
from uebench.store import Busy, Store
from uebench.train import build, train


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

    def network(self, target: Target | str, trained: bool = False) -> torch.nn.Module:
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
    journal = StoredJournal(place.store, job.key, seed, report, place.every, code(job.source, job.target))
    network = build(job.target, data.test.images.shape[1:], len(data.classes), job.recipe.precision, place.device, seed)
    outcome = train(
        network,
        place.take(data.train),
        lambda: data.test,
        classes=len(data.classes),
        recipe=job.recipe,
        chain=(),
        augment=job.source.augment,
        journal=journal,
        seed=seed,
        mirrors=job.source.mirrors(),
    )
    facts = {
        "test_accuracy": outcome.curve[-1].test_accuracy,
        "train_accuracy": outcome.curve[-1].train_accuracy,
        "seconds": journal.seconds,
        "made_with": made_with(place, job.source, job.target),
    }
    place.store.save(job.key, {"weights.safetensors": network.state_dict(), "facts.json": pack(facts)})
    forecast.note(job, place.store, place.device, journal.seconds)


def protect(job: Protect, place: Place, report: Report) -> None:
    """Make a noise, audit it, and store the released images, pictures of some, and what is known of them."""
    settle(job.precision, place.device)
    measure_from_here(place.device)
    own = code(job.source, job.noise)
    journal = StoredJournal(place.store, job.key, derive(job.seed, "noise"), report, place.every, own)
    data = untested(load(job.source, job.fingerprint, place.store))  # so that no noise finds a test image
    clean, labels = data.train.images, data.train.labels.to(place.device, copy=True)
    images = Pixels(clean.to(place.home(clean)), place.device)
    if not job.noise.streams and not place.holds(4 * clean.numel()):
        raise UserError(f"noise {job.noise.name} takes the whole set at once, which does not fit on {place.device}")
    context = LentContext(job, data, place, journal)
    sow(derive(job.seed, "noise"))
    delta = job.noise.make(cast(torch.Tensor, images if job.noise.streams else images[:]), labels, context)
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
    """Return the files of a job that others need, doing it first where it is not done.

    Raises `store.Busy` where another process is at it.
    """
    files = place.store.find(job.key)
    if files is None:
        with place.store.lock(job.key):
            files = place.store.find(job.key)
            if files is None:
                do(job, place, report)
                files = place.store.find(job.key)
    assert files
    return files


def finished(job: Job, store: Store, recorded: Mapping[str, Result] | None = None) -> Result | bool:
    """Return a finished cell's record, or whether another job is finished; a damaged one is not.

    Where the numbers are those that a board has on record, by key, the record returned is the board's.
    """
    if not isinstance(job, Cell):
        return store.find(job.key, thorough=False) is not None  # whoever uses it makes sure
    content = store.read(job.key, "result.json")
    if content is None:
        return False
    old = (recorded or {}).get(job.key)
    if old and old.told_by(content):
        return old
    return result.parse(content, place=f"stored result {job.key}")


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
    told = {name: value for name, value in made_with(place).items() if name in log.Started.__struct_fields__}
    log.note(place.store, job.key, "started", **told)
    artefact = partial(_artefact, place=place, report=report)
    try:
        if isinstance(job, Victim):
            teach(job, place, report)
        elif isinstance(job, Protect):
            protect(job, place, report)
        elif isinstance(job, Trial):
            cells.try_out(job, place, report, artefact)
        elif job.trials:
            cells.choose(job, place, artefact)
        else:
            cells.run(job, place, report, artefact)
    except Busy:  # what it needs; it is put off
        raise
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
