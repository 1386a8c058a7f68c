"""Makes a noise and releases the protected images; trains the victims of a noise on clean images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch

from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Dataset, Target
from uebench.components.registry import registry
from uebench.compute.audit import has_blank_class, measure_visibility, release_images
from uebench.compute.pixels import Pixels
from uebench.compute.precision import set_precision
from uebench.compute.seeds import derive_seed, seed_generators
from uebench.compute.separability import measure_separability
from uebench.compute.train import build_network, train_network
from uebench.jobs.checkpoint import ReportStep, StoredProgress
from uebench.jobs.datasets import image_names, load_dataset, without_test_split
from uebench.jobs.environment import hash_component_code, made_with
from uebench.jobs.forecast import record_time
from uebench.jobs.gallery import make_sheet
from uebench.jobs.tensor_files import load_tensors, tensor_writer
from uebench.jobs.workspace import Workspace, peak_memory, reset_peak_memory
from uebench.planning.plan import Job, Protect, Victim
from uebench.storage.atomic_files import canonical_json

FindFiles = Callable[[Job], Mapping[str, Path]]
"""Returns the files of a job that another job needs, after running it if necessary."""


class NoiseContext:
    """The context of a noise: the progress's steps, the data set's names and augmentation, surrogates and victims."""

    def __init__(
        self, job: Protect, data: Dataset, workspace: Workspace, progress: StoredProgress, find_files: FindFiles
    ) -> None:
        self.device, self.classes, self.seed = workspace.device, len(data.classes), derive_seed(job.seed, "noise")
        self.augment = job.source.augment
        self.steps, self.tell, self.keep, self.kept = progress.steps, progress.tell, progress.keep, progress.kept
        self._job, self._data, self._find_files = job, data, find_files

    @property
    def names(self) -> Sequence[str]:
        """The name of each training image."""
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
            path = self._find_files(victims[0])["weights.safetensors"]
            network.load_state_dict(load_tensors(path))
        return network


def train_victim(job: Victim, workspace: Workspace, report: ReportStep) -> None:
    """Train a victim on the clean set, and store its weights."""
    data = load_dataset(job.source, job.fingerprint, workspace.store)
    seed = derive_seed(job.seed, "victim")
    progress = StoredProgress(
        workspace.store, job.key, seed, report, workspace.every, hash_component_code(job.source, job.target)
    )
    network = build_network(
        job.target, data.test.images.shape[1:], len(data.classes), job.recipe.precision, workspace.device, seed
    )
    outcome = train_network(
        network,
        workspace.take(data.train),
        lambda: data.test,
        classes=len(data.classes),
        recipe=job.recipe,
        chain=(),
        augment=job.source.augment,
        progress=progress,
        seed=seed,
        mirrors=job.source.mirrors(),
    )
    facts = {
        "test_accuracy": outcome.curve[-1].test_accuracy,
        "train_accuracy": outcome.curve[-1].train_accuracy,
        "seconds": progress.seconds,
        "made_with": made_with(workspace.device, job.source, job.target),
    }
    workspace.store.save(
        job.key, {"weights.safetensors": tensor_writer(network.state_dict()), "facts.json": canonical_json(facts)}
    )
    record_time(job, workspace.store, workspace.device, progress.seconds)


def protect_images(job: Protect, workspace: Workspace, report: ReportStep, find_files: FindFiles) -> None:
    """Make a noise, audit it, and store the released images, a sheet of pictures, and measurements."""
    set_precision(job.precision, workspace.device)
    reset_peak_memory(workspace.device)
    code = hash_component_code(job.source, job.noise)
    progress = StoredProgress(workspace.store, job.key, derive_seed(job.seed, "noise"), report, workspace.every, code)
    # without test images, so that no noise can read them
    data = without_test_split(load_dataset(job.source, job.fingerprint, workspace.store))
    clean, labels = data.train.images, data.train.labels.to(workspace.device, copy=True)
    images = Pixels(clean.to(workspace.home(clean)), workspace.device)
    if not job.noise.streams and not workspace.holds(4 * clean.numel()):
        raise UserError(f"noise {job.noise.name} uses the whole set at once, which does not fit on {workspace.device}")
    context = NoiseContext(job, data, workspace, progress, find_files)
    seed_generators(derive_seed(job.seed, "noise"))
    delta = job.noise.make(cast(torch.Tensor, images if job.noise.streams else images[:]), labels, context)
    seconds = progress.seconds
    released = release_images(job.noise, clean, delta)
    facts = {
        **measure_visibility(clean, released, workspace.device),
        **measure_separability(clean, released, data.train.labels),
        "noise_norm": job.noise.budget(clean.shape[1:]).norm,
        "noise_seconds": seconds,
        "flags": ["blank-class"] if has_blank_class(released, data.train.labels) else [],
        "peak_bytes": peak_memory(workspace.device),
        "made_with": made_with(workspace.device, job.source, job.noise),
    }
    files = {"facts.json": canonical_json(facts), "gallery.png": make_sheet(clean, released, data.train.labels)}
    workspace.store.save(job.key, {"released.safetensors": tensor_writer({"images": released}), **files})
    record_time(job, workspace.store, workspace.device, seconds)
