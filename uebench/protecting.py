"""Makes a noise and releases the protected images; trains the networks that a noise asks for on clean images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from uebench import audit, forecast
from uebench.api import Dataset, Target
from uebench.data import load, names, untested
from uebench.errors import ContractError, UserError
from uebench.files import pack
from uebench.gallery import sheet
from uebench.journal import Report, StoredJournal
from uebench.origin import code, made_with
from uebench.pixels import Pixels
from uebench.place import Place, measure_from_here, peak
from uebench.plan import Job, Protect, Victim
from uebench.precision import settle
from uebench.registry import registry
from uebench.seeds import derive, sow
from uebench.train import build, train

Artefact = Callable[[Job], Mapping[str, Path]]
"""Returns the files of a job that another needs, once it is done."""


class LentContext:
    """What a noise is lent: the journal's steps, the data set's names and augmentation, surrogates and victims."""

    def __init__(self, job: Protect, data: Dataset, place: Place, journal: StoredJournal, artefact: Artefact) -> None:
        self.device, self.classes, self.seed = place.device, len(data.classes), derive(job.seed, "noise")
        self.augment = job.source.augment
        self.steps, self.tell, self.keep, self.kept = journal.steps, journal.tell, journal.keep, journal.kept
        self._job, self._data, self._artefact = job, data, artefact

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
                raise ContractError(
                    f"noise {self._job.noise.name} asks for a trained {target.name} that its victims() do not declare"
                )
            path = self._artefact(victims[0])["weights.safetensors"]
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
        "made_with": made_with(place.device, job.source, job.target),
    }
    place.store.save(job.key, {"weights.safetensors": network.state_dict(), "facts.json": pack(facts)})
    forecast.note(job, place.store, place.device, journal.seconds)


def protect(job: Protect, place: Place, report: Report, artefact: Artefact) -> None:
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
    context = LentContext(job, data, place, journal, artefact)
    sow(derive(job.seed, "noise"))
    delta = job.noise.make(cast(torch.Tensor, images if job.noise.streams else images[:]), labels, context)
    seconds = journal.seconds
    released = audit.release(job.noise, clean, delta)
    facts = {
        **audit.visibility(clean, released, place.device),
        "noise_norm": job.noise.budget(clean.shape[1:]).norm,
        "noise_seconds": seconds,
        "peak_bytes": peak(place.device),
        "made_with": made_with(place.device, job.source, job.noise),
    }
    files = {"facts.json": pack(facts), "gallery.png": sheet(clean, released, data.train.labels)}
    place.store.save(job.key, {"released.safetensors": {"images": released}, **files})
    forecast.note(job, place.store, place.device, seconds)
