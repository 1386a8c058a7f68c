"""A breaker is blind: searching all of the process's memory finds no noise, no clean image and no test image."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import TINY
from tests.jobs.test_jobs import VICTIM, released_by, silent
from uebench import Breaker, Context, Noise, Recipe, Target
from uebench.jobs.run import run_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, plan_protect, plan_selection
from uebench.planning.selection import Selection
from uebench.planning.suite_file import read_suite
from uebench_plugins.breakers.best_of import BestOf
from uebench_plugins.breakers.none import NoBreaker
from uebench_plugins.datasets.digits import Digits
from uebench_plugins.noises.em import EM
from uebench_plugins.noises.none import NoNoise

FOUND: dict[str, set[str]] = {}
DIGITS = Digits(contrast=0.37, test_images=1400)
"""Images that no other test of this process has."""
SHAPE = (3, 8, 8)


def prints(images: Tensor) -> Iterator[str]:
    """Yield a fingerprint of every image of a stack, whatever its units: as a difference, in steps of 1/255."""
    values = images.detach().double()
    scale = 255 if values.abs().max() <= 1 else 1
    for one in (values * scale).round().to(torch.int16).reshape(-1, *SHAPE):
        if bool(one.any()):
            yield hashlib.sha256(one.numpy().tobytes()).hexdigest()


def everything() -> Iterator[Tensor]:
    """Yield every tensor and array in the process that could hold images, also those behind views."""
    for one in gc.get_objects():
        if issubclass(type(one), np.ndarray) and one.dtype.kind in "fiu":
            one = torch.from_numpy(np.array(one))
        if issubclass(type(one), Tensor) and not issubclass(type(one), nn.Parameter) and one.device.type == "cpu":
            for seen in (one, one._base if one._base is not None else one):
                if seen.numel() and seen.numel() % 192 == 0 and seen.shape[-3:] == SHAPE:
                    yield seen


def search(place: str) -> None:
    for images in list(everything()):
        FOUND.setdefault(place, set()).update(prints(images))


class Hostile(Breaker):
    """Looks at all it can get hold of, at every opportunity."""

    name = "hostile"

    def filter(self, images: Tensor, labels: Tensor) -> Tensor:
        search("filter")
        return images

    def augment(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        search("augment")
        return images, targets

    def attack(self, model: nn.Module, images: Tensor, targets: Tensor, progress: float) -> Tensor:
        search("attack")
        return images


@pytest.mark.parametrize("noise", [EM(radius=0.1, surrogate=VICTIM, steps=3, batch=64, noise_steps=2)])
def test_a_hostile_breaker_finds_nothing_but_what_it_is_given(noise: Noise, place: Workspace) -> None:
    recipe = Recipe(steps=3, batch=32, evaluations=3)
    chosen = Selection(read_suite(str(TINY)), [DIGITS], [noise], [(Hostile(),)], [VICTIM], recipe, [0])
    plan = plan_selection(chosen, NoNoise(), (NoBreaker(),), [""])
    cell = next(one for one in plan.cells if one.protect.noise == noise and one.chain == (Hostile(),))
    FOUND.clear()
    run_job(cell.protect, place, silent)
    run_job(cell, place, silent)
    data = DIGITS.load(place.store.data)
    released = released_by(place.store, cell.protect)
    hidden = {
        "clean": set(prints(data.train.images)),
        "test": set(prints(data.test.images)),
        "noise": set(prints(released.to(torch.int16) - data.train.images.to(torch.int16))),
    }
    given = set(prints(released))
    assert FOUND.keys() == {"filter", "augment", "attack"}
    for occasion, found in FOUND.items():
        assert found & given, f"the search at {occasion} sees nothing at all"
        for what, secrets in hidden.items():
            assert not found & (secrets - given), f"{what} images were found at {occasion}"


class Littering(Noise):
    """Leaves the clean images where only the garbage collector finds them."""

    name = "littering"

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        litter: list[object] = [images[:]]
        litter.append(litter)
        return torch.full(images.shape, 0.1)


def test_what_a_noise_leaves_in_cycles_is_gone_before_a_breaker_looks(place: Workspace) -> None:
    chosen = Selection(
        read_suite(str(TINY)), [DIGITS], [Littering(radius=0.1)], [(Hostile(),)], [VICTIM], Recipe(steps=1), [0]
    )
    cell = plan_selection(chosen, NoNoise(), (NoBreaker(),), [""]).cells[-1]
    FOUND.clear()
    gc.disable()
    try:
        run_job(cell.protect, place, silent)
        run_job(cell, place, silent)
    finally:
        gc.enable()
    released, clean = released_by(place.store, cell.protect), DIGITS.load(place.store.data).train.images
    assert FOUND["filter"] & set(prints(released))
    assert not FOUND["filter"] & (set(prints(clean)) - set(prints(released)))


def test_neither_does_one_that_is_tried_on_held_out_images(place: Workspace) -> None:
    """The choice is made without a clean or a test image: none is in memory when a chain is tried."""
    chain = (BestOf(of=(Hostile(), NoBreaker())),)
    noise, recipe = EM(radius=0.1, surrogate=VICTIM, steps=3, batch=64, noise_steps=2), Recipe(steps=3, batch=32)
    job = plan_protect(DIGITS, "", noise, recipe, 0)
    trial = Cell(job, chain, VICTIM, recipe).trials[0]
    run_job(job, place, silent)
    FOUND.clear()
    run_job(trial, place, silent)
    data = DIGITS.load(place.store.data)
    given = set(prints(released_by(place.store, job)))
    assert FOUND.keys() == {"filter", "augment", "attack"}
    for found in FOUND.values():
        assert found & given, "the search sees nothing at all"
        assert not found & (set(prints(data.train.images)) - given)
        assert not found & (set(prints(data.test.images)) - given)


def test_the_search_would_find_them() -> None:
    """Were anything kept, in a list or behind a view, it would be found."""
    FOUND.clear()
    data = DIGITS.load(None)  # type: ignore[arg-type]
    kept = [data.test.images[3:9]]
    del data
    search("here")
    assert set(prints(kept[0])) <= FOUND["here"]


class Curious(Noise):
    """Looks for test images in all of memory, its context included."""

    name = "curious"

    def make(self, images: Tensor, labels: Tensor, context: Context) -> Tensor:
        context.network(VICTIM, trained=True)
        search("make")
        return torch.zeros_like(images)

    def victims(self) -> list[Target]:
        return [VICTIM]


def test_a_noise_finds_no_test_image_even_where_it_asks_for_a_trained_network(place: Workspace) -> None:
    data = DIGITS.load(place.store.data)
    hidden, given = set(prints(data.test.images)), set(prints(data.train.images))
    del data
    FOUND.clear()
    run_job(plan_protect(DIGITS, "", Curious(), Recipe(steps=2, batch=32, evaluations=1), 0), place, silent)
    assert FOUND["make"] & given, "the search sees nothing at all"
    assert not FOUND["make"] & (hidden - given)
