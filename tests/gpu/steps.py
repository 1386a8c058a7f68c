"""Measures steps of networks on a device, written as JSON as they come: `python tests/gpu/steps.py FILE cuda:0`.

For each network and precision: the time of a training step and of an attack, with CUDA graphs and without; the longest
kernels; whether two equal trainings give equal bits; the distance of gradients from those in float64. Needs no images.
`leaderboards/bench/` has the results of one run. A third word, `tiny`, makes it short, to try it on a processor.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from uebench.components.recipe import Recipe
from uebench.components.registry import registry
from uebench.compute import attacks
from uebench.compute.cuda_graphs import DISABLE_VARIABLE
from uebench.compute.optimisation import Training
from uebench.compute.pixels import Pixels
from uebench.compute.train import build_network
from uebench.planning.suite import RECIPE_FAMILIES

CASES = [("fastnet", 512, "quick"), ("resnet8", 128, "fast"), ("resnet18", 128, "fast")]
RADIUS, ATTACK_STEPS = 4 / 255, 10


class Measurements:
    """The measurements of one device, written to a file whenever one is added."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.device = path, device
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Print and write a row."""
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")
        print(*(f"{name}={value}" for name, value in row.items() if name != "kernels"), flush=True)

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def time(self, work: Callable[[], object], repeats: int) -> dict[str, float]:
        """Return medians of three, in ms: a call, and a call until its last kernel is launched."""
        for _ in range(4):
            work()
        self.wait()
        whole, host = [], []
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(repeats):
                work()
            host.append(time.perf_counter() - began)
            self.wait()
            whole.append(time.perf_counter() - began)
        return {"ms": 1e3 * median(whole) / repeats, "host_ms": 1e3 * median(host) / repeats}


def set_graphs(on: bool) -> None:
    """Allow or forbid CUDA graphs."""
    os.environ.pop(DISABLE_VARIABLE, None)
    if not on:
        os.environ[DISABLE_VARIABLE] = "1"


def make_training(target: str, family: str, precision: str, device: torch.device, count: int) -> Training:
    """Return the training of a new network by a family of recipes, at a small constant rate."""
    network = build_network(registry().build("target", target), (3, 32, 32), 10, precision, device, 0)
    settings = {**RECIPE_FAMILIES[family], "steps": 100_000, "precision": precision, "schedule": "constant"}
    return Training(network, Recipe(**{**settings, "lr": 0.001}), count, 0)


def measure_steps(measured: Measurements, case: tuple[str, int, str], stored: Tensor, labels: Tensor) -> None:
    """Measure a training step and an attack in each precision, with graphs and without."""
    target, batch, family = case
    images, targets = Pixels(stored, measured.device)[slice(0, batch)], labels[:batch]
    for precision in ("bf16", "fp32"):
        for graphs in (True, False):
            set_graphs(graphs)
            what = {"target": target, "precision": precision, "graphs": graphs, "batch": batch}
            training = make_training(target, family, precision, measured.device, len(labels))

            def train(training: Training = training) -> None:
                training.step(0, images, targets)

            def attack(network: nn.Module = training.network) -> None:
                attacks.pgd(network, images, targets, radius=RADIUS, steps=ATTACK_STEPS, step=RADIUS / 4)

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                measured.add(step="training step", **measured.time(train, 10), **what)
                measured.add(step=f"attack of {ATTACK_STEPS} steps", **measured.time(attack, 2), **what)
            for text in {str(warning.message) for warning in caught}:
                measured.add(step="warning", text=text, **what)
            if measured.device.type == "cuda" and graphs:
                for name, work in (("training step", train), ("attack", attack)):
                    measured.add(step=f"kernels of a {name}", kernels=longest_kernels(measured, work), **what)
    set_graphs(True)


def longest_kernels(measured: Measurements, work: Callable[[], object]) -> list[tuple[str, int, float]]:
    """Return name, number of calls and total ms of the twelve kernels that take longest."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        measured.wait()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_device_time_total)
    return [(event.key[:80], event.count, event.self_device_time_total / 1e3) for event in events[:12]]


def compare_trainings(measured: Measurements, case: tuple[str, int, str], stored: Tensor, labels: Tensor) -> None:
    """Measure how far two equal trainings are apart, and a training with graphs from one without."""
    target, _, family = case

    def train(graphs: bool) -> Tensor:
        set_graphs(graphs)
        training = make_training(target, family, "bf16", measured.device, len(labels))
        for step in range(30):
            index = training.batch(step)
            training.step(step, Pixels(stored, measured.device)[index], labels[index])
        return torch.cat([weight.detach().flatten() for weight in training.network.parameters()])

    first, second, plain = train(True), train(True), train(False)
    set_graphs(True)
    distances = {
        name: float((first - other).norm() / first.norm()) for name, other in (("again", second), ("plain", plain))
    }
    measured.add(step="two equal trainings", target=target, equal=torch.equal(first, second), **distances)


def compare_gradients(measured: Measurements, target: str, stored: Tensor, labels: Tensor) -> None:
    """Measure how far gradients of each precision are from those of float64 on the processor."""

    def gradients(device: torch.device, precision: str, double: bool = False) -> list[Tensor]:
        network = build_network(registry().build("target", target), (3, 32, 32), 10, precision, device, 0)
        images, targets = Pixels(stored[:8].to(device), device)[:], labels[:8].to(device)
        if double:
            network, images = network.double(), images.double()
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        loss = nn.functional.cross_entropy(network(images.requires_grad_()), targets)
        of_images, *of_weights = torch.autograd.grad(loss, [images, *weights])
        return [of_images.double().cpu(), torch.cat([part.double().cpu().flatten() for part in of_weights])]

    exact = gradients(torch.device("cpu"), "fp32", double=True)
    for precision in ("bf16", "tf32", "fp32"):
        found = gradients(measured.device, precision)
        images, weights = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
        measured.add(
            step="gradients against float64", target=target, precision=precision, images=images, weights=weights
        )


def main(path: str, name: str, size: str = "") -> None:
    """Measure everything on a device."""
    device = torch.device(name)
    measured = Measurements(Path(path), device)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for target, batch, family in CASES[:2] if size == "tiny" else CASES:
        case = target, 8 if size == "tiny" else batch, family
        count = max(4 * case[1], int(RECIPE_FAMILIES[family].get("batch", 128)))
        stored = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8).to(device)
        labels = torch.randint(0, 10, (count,), generator=generator).to(device)
        measure_steps(measured, case, stored, labels)
        if size != "tiny":
            compare_trainings(measured, case, stored, labels)
        compare_gradients(measured, target, stored, labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
