"""Measures what this device makes of the two steps that everything consists of: an attack step and a training step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from uebench.components.interfaces import Target
from uebench.components.recipe import Recipe
from uebench.components.spec import component_label
from uebench.compute.attacks import pgd
from uebench.compute.optimisation import Training
from uebench.compute.precision import has_bf16
from uebench.compute.train import build_network

if TYPE_CHECKING:
    from uebench.compute.networks import Classifier

RADIUS = 8 / 255
ATTACK_STEPS = 10
SIDES = {"cuda": 8192, "cpu": 1024}
"""Sides of the square matrices whose product tells what a device can do at most."""


@dataclass(frozen=True)
class Speed:
    """One step on one batch: its time, and what that is in floating-point operations, two a multiply-add."""

    step: str
    network: str
    precision: str
    images: int
    seconds: float
    flops: float
    peak: float
    """Operations a second of the device's own matrix product in the same arithmetic."""

    @property
    def images_per_second(self) -> float:
        """Images that pass, forward and backward, in a second."""
        return self.images / self.seconds

    @property
    def share(self) -> float:
        """The part of the device's own matrix-product rate that the step reaches."""
        return self.flops / self.seconds / self.peak

    def facts(self) -> dict[str, float | str]:
        """Return everything for a record."""
        return {**asdict(self), "images_per_second": self.images_per_second, "share": self.share}


def measure_seconds(work: Callable[[], object], device: torch.device, span: float) -> float:
    """Return the median seconds of a call, of as many as fit in a span of time and three at least, warmed up."""

    def once() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    for _ in range(3):
        once()
    found, end = [once() for _ in range(3)], time.perf_counter() + span
    while time.perf_counter() < end:
        found.append(once())
    return median(found)


def measure_product_rate(device: torch.device, precision: str, span: float) -> float:
    """Return the operations a second of a product of square matrices, in the arithmetic of a precision."""
    side = SIDES[device.type]
    kind = torch.bfloat16 if precision == "bf16" and has_bf16(device) else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / measure_seconds(lambda: left @ right, device, span)


def count_operations(network: Classifier, images: torch.Tensor) -> float:
    """Return the operations of one forward pass of a batch."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, as is what it brings along

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    return float(counter.get_total_flops())


def measure_steps(
    target: Target,
    shape: tuple[int, int, int],
    classes: int,
    recipe: Recipe,
    device: torch.device,
    span: float,
) -> list[Speed]:
    """Return the speed of an attack step and of a training step of a recipe on images of a shape (c, h, w).

    An attack step has the forward pass and the backward pass to the images, as much again; a training step the backward
    pass to the weights besides.
    """
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(recipe.batch, *shape, generator=draw).to(device)
    labels = torch.randint(0, classes, (recipe.batch,), generator=draw).to(device)
    network = build_network(target, shape, classes, recipe.precision, device, 0)
    training = Training(network, recipe, recipe.batch, 0)
    forward = count_operations(network, images)
    peak = measure_product_rate(device, recipe.precision, span)
    attack = measure_seconds(
        lambda: pgd(network, images, labels, radius=RADIUS, steps=ATTACK_STEPS, step=RADIUS / 4), device, span
    )
    step = measure_seconds(lambda: training.step(0, images, labels), device, span)
    precision = "fp32" if recipe.precision == "bf16" and not network.autocast else recipe.precision
    name = f"{component_label(target)} at {shape[1]}x{shape[2]}"
    return [
        Speed("attack step", name, precision, recipe.batch, attack / ATTACK_STEPS, 2 * forward, peak),
        Speed("training step", name, precision, recipe.batch, step, 3 * forward, peak),
    ]
