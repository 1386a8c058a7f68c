"""Measures the speed of a device on the two steps that take most of the time: an attack step and a training step."""

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
"""Side of the square matrices whose product measures the peak rate of a device, by device type."""


@dataclass(frozen=True)
class Speed:
    """The speed of one step on one batch: its time and its floating-point operations; a multiply-add counts as two."""

    step: str
    network: str
    precision: str
    images: int
    seconds: float
    flops: float
    peak: float
    """Operations per second of a matrix product on the same device in the same precision."""

    @property
    def images_per_second(self) -> float:
        """Return the images per second, forward and backward."""
        return self.images / self.seconds

    @property
    def share(self) -> float:
        """Return the rate of the step as a fraction of the device's matrix-product rate."""
        return self.flops / self.seconds / self.peak

    def facts(self) -> dict[str, float | str]:
        """Return all fields and properties as a dictionary, for a record."""
        return {**asdict(self), "images_per_second": self.images_per_second, "share": self.share}


def measure_seconds(work: Callable[[], object], device: torch.device, span: float) -> float:
    """Return the median seconds of a call, over at least three calls and further calls for `span` seconds.

    Three warm-up calls come first.
    """

    def time_call() -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    for _ in range(3):
        time_call()
    seconds, end = [time_call() for _ in range(3)], time.perf_counter() + span
    while time.perf_counter() < end:
        seconds.append(time_call())
    return median(seconds)


def measure_product_rate(device: torch.device, precision: str, span: float) -> float:
    """Return the operations per second of a product of square matrices in a precision."""
    side = SIDES[device.type]
    dtype = torch.bfloat16 if precision == "bf16" and has_bf16(device) else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / measure_seconds(lambda: left @ right, device, span)


def count_operations(network: Classifier, images: torch.Tensor) -> float:
    """Return the floating-point operations of one forward pass of a batch (b, c, h, w)."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, with all that it imports

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
    """Return the speed of an attack step and of a training step of a recipe, on random images of a shape (c, h, w).

    An attack step is a forward pass and the backward pass to the images, which has as many operations. A training step
    counts as three forward passes, because it also has the backward pass to the weights. Each measurement lasts `span`
    seconds.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(recipe.batch, *shape, generator=generator).to(device)
    labels = torch.randint(0, classes, (recipe.batch,), generator=generator).to(device)
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
