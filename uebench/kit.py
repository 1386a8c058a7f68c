"""What plug-ins may borrow: pixels and their 8 bits, augmentation, attacks, and the loop of the EM family."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from uebench.components.interfaces import Context, Images
from uebench.components.recipe import Recipe
from uebench.compute.attacks import (
    Attack,
    accuracy_under_pgd,
    adversary,
    apgd,
    attack_passes,
    frozen,
    image_gradient,
    pgd,
)
from uebench.compute.norms import Norm, project
from uebench.compute.optimisation import Training
from uebench.compute.pixels import Pixels, blank, crop_and_flip, quantise, to_bytes, to_float, to_steps

__all__ = [
    "Attack",
    "Norm",
    "Pixels",
    "Training",
    "accuracy_under_pgd",
    "adversary",
    "alternate",
    "apgd",
    "attack_passes",
    "blank",
    "centre",
    "crop_and_flip",
    "frozen",
    "image_gradient",
    "normalise",
    "parts",
    "pgd",
    "project",
    "quantise",
    "scale",
    "to_bytes",
    "to_float",
    "to_steps",
]
RENAMED = {"slope": "image_gradient"}
"""Names of the last release, and what they are called now; they go with the next one."""


def __getattr__(name: str) -> Any:
    """Return what a name of the last release stands for, with a `DeprecationWarning`."""
    if name not in RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"uebench.kit.{name} is now uebench.kit.{RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[RENAMED[name]]


FULL = 2**20
"""Pixels of a batch with which a GPU is busy: 1 024 images of 32x32."""


def parts(draws: int, images: torch.Tensor) -> list[int]:
    """Return how many draws of something to make of images (b, c, h, w) in one pass, in the next, and so on.

    On a processor one by one: the numbers on record were made so.
    """
    count, _, height, width = images.shape
    most = max(1, FULL // (count * height * width)) if images.is_cuda else 1
    return [min(most, draws - first) for first in range(0, draws, most)]


def centre() -> torch.nn.Module:
    """Return the layer that shifts images from [0, 1] to [-0.5, 0.5], the only normalisation of the REM code base."""
    from uebench.compute.networks import Centre

    return Centre()


def normalise(mean: Sequence[float], deviation: Sequence[float]) -> torch.nn.Module:
    """Return the layer that takes each channel's mean off images (b, c, h, w), and divides by its deviation."""
    from uebench.compute.networks import Normalise

    return Normalise(mean, deviation)


def scale(factor: float) -> torch.nn.Module:
    """Return the layer that multiplies by a constant, such as a network's logits."""
    from uebench.compute.networks import Scale

    return Scale(factor)


def alternate(
    images: Images,
    labels: torch.Tensor,
    context: Context,
    *,
    network: torch.nn.Module,
    recipe: Recipe,
    radius: float,
    make: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    view: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    before: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    rounded: bool = True,
) -> torch.Tensor:
    """Alternate noise steps and surrogate steps, the loop that EM, REM and SEM share (REM, algorithm 1).

    `make(x, y, old)` returns the noise of a batch against the frozen surrogate, given the one it had; `view(x, y)`
    returns the images that the surrogate learns from, given protected ones; `before(x)` changes a batch ahead of both.
    Noise is stored by image index, in whole steps of 1/255, as it will be released, and the surrogate learns from it
    so, unless `rounded` is off. After the last surrogate step the noise of every image is made once more against the
    final surrogate; unlike the papers' code, which drops the incomplete last batch there, this pass leaves no image
    out. Returns the noise, as `blank` gives it.
    """
    training = Training(network, recipe, len(images), context.seed)
    delta = blank(images, radius)
    kept = context.kept()
    if kept:
        training.resume(kept)
        delta.copy_(kept["delta"])
    sweep = torch.split(torch.arange(len(images), device=labels.device), recipe.batch)
    for step in context.steps(recipe.steps + len(sweep)):
        learning = step < recipe.steps
        index = training.batch(step) if learning else sweep[step - recipe.steps]
        place = index.to(delta.device)
        x, y = before(images[index]), labels[index]
        with frozen(network):
            made = make(x, y, delta[place].to(x) / 255)
        fresh = to_steps(made, radius)
        delta[place] = fresh.to(delta.device)
        if learning:
            shown = fresh.to(x) / 255 if rounded else made
            loss, _ = training.step(step, view((x + shown).clamp(0, 1), y), y)
            context.tell(loss)
        context.keep(training.state, delta=delta)
    return delta
