"""Makes a noise and releases the protected images; trains the networks that a noise asks for on clean images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import safetensors.torch
import torch

from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Dataset, Target
from uebench.components.registry import registry
from uebench.compute.audit import measure_visibility, release_images
from uebench.compute.pixels import Pixels
from uebench.compute.precision import set_precision
from uebench.compute.seeds import derive_seed, seed_generators
from uebench.compute.train import build_network, train_network
from uebench.jobs.checkpoint import ReportStep, StoredProgress
from uebench.jobs.datasets import image_names, load_dataset, without_test_split
from uebench.jobs.environment import hash_component_code, made_with
from uebench.jobs.forecast import record_time
from uebench.jobs.gallery import make_sheet
from uebench.jobs.workspace import Workspace, peak_memory, reset_peak_memory
from uebench.planning.plan import Job, Protect, Victim
from uebench.storage.atomic_files import canonical_json

Artefact = Callable[[Job], Mapping[str, Path]]
"""Returns the files of a job that another needs, once it is done."""


class NoiseContext:
    """What a noise is lent: the journal's steps, the data set's names and augmentation, surrogates and victims."""

    def __init__(
        self, job: Protect, data: Dataset, place: Workspace, journal: StoredProgress, artefact: Artefact
    ) -> None:
        self.device, self.classes, self.seed = place.device, len(data.classes), derive_seed(job.seed, "noise")
        self.augment = job.source.augment
        self.steps, self.tell, self.keep, self.kept = journal.steps, journal.tell, journal.keep, journal.kept
        self._job, self._data, self._artefact = job, data, artefact

    @property
    def names(self) -> Sequence[str]:
        """What each training image is called."""
        return image_names(self._data)

    def network(self, target: Target | str, trained: bool = False) -> torch.nn.Module:
        """Return a freshly initialised surrogate, or a victim."""
        if isinstance(target, str):
            target = cast(Target, registry().build("target", target))
        seed = derive_seed(self._job.seed, "surrogate")
        network = build_network(
            target, self._data.test.images.shape[1:], self.classes, self._job.precision, self.device, seed
        )
        if trained:
            victims = [victim for victim in self._job.victims if victim.target == target]
            if not victims:
                raise ContractError(
                    f"noise {self._job.noise.name} asks for a trained {target.name} that its victims() do not declare"
                )
            path = self._artefact(victims[0])["weights.safetensors"]
            network.load_state_dict(safetensors.torch.load_file(path))
        return network


def train_victim(job: Victim, place: Workspace, report: ReportStep) -> None:
    """Train a victim on the clean set, and store its weights."""
    data = load_dataset(job.source, job.fingerprint, place.store)
    seed = derive_seed(job.seed, "victim")
    journal = StoredProgress(
        place.store, job.key, seed, report, place.every, hash_component_code(job.source, job.target)
    )
    network = build_network(
        job.target, data.test.images.shape[1:], len(data.classes), job.recipe.precision, place.device, seed
    )
    outcome = train_network(
        network,
        place.take(data.train),
        lambda: data.test,
        classes=len(data.classes),
        recipe=job.recipe,
        chain=(),
        augment=job.source.augment,
        progress=journal,
        seed=seed,
        mirrors=job.source.mirrors(),
    )
    facts = {
        "test_accuracy": outcome.curve[-1].test_accuracy,
        "train_accuracy": outcome.curve[-1].train_accuracy,
        "seconds": journal.seconds,
        "made_with": made_with(place.device, job.source, job.target),
    }
    place.store.save(job.key, {"weights.safetensors": network.state_dict(), "facts.json": canonical_json(facts)})
    record_time(job, place.store, place.device, journal.seconds)


def protect_images(job: Protect, place: Workspace, report: ReportStep, artefact: Artefact) -> None:
    """Make a noise, audit it, and store the released images, pictures of some, and what is known of them."""
    set_precision(job.precision, place.device)
    reset_peak_memory(place.device)
    own = hash_component_code(job.source, job.noise)
    journal = StoredProgress(place.store, job.key, derive_seed(job.seed, "noise"), report, place.every, own)
    data = without_test_split(
        load_dataset(job.source, job.fingerprint, place.store)
    )  # so that no noise finds a test image
    clean, labels = data.train.images, data.train.labels.to(place.device, copy=True)
    images = Pixels(clean.to(place.home(clean)), place.device)
    if not job.noise.streams and not place.holds(4 * clean.numel()):
        raise UserError(f"noise {job.noise.name} takes the whole set at once, which does not fit on {place.device}")
    context = NoiseContext(job, data, place, journal, artefact)
    seed_generators(derive_seed(job.seed, "noise"))
    delta = job.noise.make(cast(torch.Tensor, images if job.noise.streams else images[:]), labels, context)
    seconds = journal.seconds
    released = release_images(job.noise, clean, delta)
    facts = {
        **measure_visibility(clean, released, place.device),
        "noise_norm": job.noise.budget(clean.shape[1:]).norm,
        "noise_seconds": seconds,
        "peak_bytes": peak_memory(place.device),
        "made_with": made_with(place.device, job.source, job.noise),
    }
    files = {"facts.json": canonical_json(facts), "gallery.png": make_sheet(clean, released, data.train.labels)}
    place.store.save(job.key, {"released.safetensors": {"images": released}, **files})
    record_time(job, place.store, place.device, seconds)
