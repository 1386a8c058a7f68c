"""Samples for checking components: a tiny data set, a small network, and a noise made in a few steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from uebench.components.interfaces import Dataset, Noise, Source, Split, Target
from uebench.components.recipe import Recipe
from uebench.compute.pixels import Pixels
from uebench.compute.seeds import seed_generators
from uebench.jobs.checkpoint import StoredProgress
from uebench.jobs.datasets import without_test_split
from uebench.jobs.protect import NoiseContext
from uebench.jobs.run import finish_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import plan_protect
from uebench.storage.store import Store

SHAPE, CLASSES, IMAGES = (3, 16, 16), 4, 24
LARGE = (3, 32, 32)
"""Shape of the images for checking networks; some networks need this size."""

HOST = torch.device("cpu")
DRAW = "draw from torch's default generator only"


@dataclass(frozen=True)
class Finding:
    """A rule, whether a component keeps it, and what its author should do if not."""

    rule: str
    kept: bool
    advice: str = ""


class SampleSource(Source):
    """Random images with one brightness per class."""

    name = "check-sample"

    def load(self, folder: Path) -> Dataset:
        """Return the images, the same every time."""
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(IMAGES) % CLASSES
        images = torch.randint(0, 128, (IMAGES, *SHAPE), generator=draw) + 32 * labels[:, None, None, None]
        split = Split(images.to(torch.uint8), labels)
        return Dataset(split, split, [str(label) for label in range(CLASSES)])


class ProbeTarget(Target):
    """A small network to try attacks on."""

    name = "check-probe"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return batch norm and a linear layer."""
        norm, flat = torch.nn.BatchNorm2d(shape[0]), torch.nn.Flatten()
        return torch.nn.Sequential(norm, flat, torch.nn.Linear(shape[0] * shape[1] * shape[2], classes))


class Interrupted(Exception):
    """The simulated death of the process."""


class InterruptibleProgress(StoredProgress):
    """Progress that can skip all but the first two and the last two steps, and can die after a number of steps."""

    whole = True
    dies_after: int | None = None

    def steps(self, count: int) -> Iterator[int]:
        """Yield the remaining steps, or a few of them."""
        done = 0
        for step in super().steps(count):
            if not self.whole and 2 <= step < count - 2:
                continue
            if done == self.dies_after:
                raise Interrupted
            done += 1
            yield step


def make_sample_noise(
    noise: Noise, store: Store, device: torch.device = HOST, *, whole: bool, dies_after: int | None = None
) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Make a noise in all its steps, or in the first and last ones; returns it, its images and its labels.

    Raises `Interrupted` after `dies_after` steps; its checkpoint is then in the store.
    """
    data = without_test_split(SampleSource().load(Path()))
    job = plan_protect(SampleSource(), "", noise, Recipe(steps=3), seed=0)
    progress = InterruptibleProgress(store, "check", 0, lambda step, count, loss: None, every=0)
    progress.whole, progress.dies_after = whole, dies_after
    images, labels = Pixels(data.train.images.to(device, copy=True), device), data.train.labels.to(device, copy=True)
    given: Any = images if noise.streams else images[:]
    seed_generators(0)
    workspace = Workspace(store, device, every=0)
    find_files = partial(finish_job, workspace=workspace, report=progress.report)
    context = NoiseContext(job, data, workspace, progress, find_files)
    delta = noise.make(given, labels, context)
    return delta, given[:], labels
