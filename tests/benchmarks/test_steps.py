"""The steps that everything consists of, on a small network, and what the engine costs around them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from tests.compute.test_fast_path import plain_pgd
from tests.executors.test_local import planned
from uebench import Breaker, Dataset, Recipe, Source, Split, kit
from uebench.components.registry import registry
from uebench.compute.attacks import pgd
from uebench.compute.optimisation import Training
from uebench.compute.pixels import Pixels
from uebench.compute.seeds import derive_seed
from uebench.compute.train import build_network, evaluate_network
from uebench.jobs.datasets import load_dataset
from uebench.jobs.run import run_job
from uebench.jobs.workspace import Workspace
from uebench.planning.plan import Cell, Protect
from uebench.storage.store import Store
from uebench_plugins.targets.resnet import ResNet8

HOST, SHAPE, BATCH, RADIUS = torch.device("cpu"), (3, 32, 32), 64, 8 / 255
ROUNDS = 7


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as the workers of a run do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.rand(BATCH, *SHAPE, generator=draw), torch.randint(0, 10, (BATCH,), generator=draw)


@pytest.fixture
def network() -> Any:
    return build_network(ResNet8(), SHAPE, 10, "fp32", HOST, 0)


def apart(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each of some calls, taken by turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for place, one in enumerate(works):
            began = time.perf_counter()
            one()
            times[place].append(time.perf_counter() - began)
    return [median(one) for one in times]


def test_attack_step(benchmark: Any, network: Any, batch: tuple[Tensor, Tensor]) -> None:
    benchmark(lambda: pgd(network, *batch, radius=RADIUS, steps=1, step=RADIUS / 4))


def test_training_step(benchmark: Any, network: Any, batch: tuple[Tensor, Tensor]) -> None:
    training = Training(network, Recipe(batch=BATCH), BATCH, 0)
    benchmark(lambda: training.step(0, *batch))


def test_crop_and_flip(benchmark: Any, batch: tuple[Tensor, Tensor]) -> None:
    benchmark(lambda: kit.crop_and_flip(batch[0], 4))


class Scattered(Source):
    """One batch of random images."""

    name = "scattered"

    def load(self, folder: Path) -> Dataset:
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (BATCH, *SHAPE), dtype=torch.uint8, generator=draw)
        split = Split(images, torch.arange(BATCH) % 10)
        return Dataset(split, split, [str(label) for label in range(10)])


@pytest.mark.parametrize("name", ["em", "rem", "sem"])
def test_noise(benchmark: Any, name: str, tmp_path: Path) -> None:
    """The whole generator with the papers' attacks: a step, and the last pass over the set."""
    noise, steps = registry().build("noise", f"{name}:surrogate=resnet8,batch={BATCH},steps=1"), 1 + 1
    stores = iter([Store(tmp_path / str(count)) for count in range(3)])

    def whole() -> None:
        store = next(stores)
        store.prepare()
        run_job(Protect(Scattered(), "", noise, "fp32", 0), Workspace(store, HOST), lambda *step: None)  # type: ignore[arg-type]

    benchmark.pedantic(whole, rounds=3)
    benchmark.extra_info["milliseconds an image and step"] = 1e3 * benchmark.stats.stats.median / (steps * BATCH)


def test_fast_path_against_the_plain_one(benchmark: Any, network: Any, batch: tuple[Tensor, Tensor]) -> None:
    """Both in fp32, one step of adversarial training with ten attack steps."""
    images, labels = batch
    plain = copy.deepcopy(network.network).to(memory_format=torch.contiguous_format)
    training = Training(network, Recipe(batch=BATCH), BATCH, 0)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def slow() -> None:
        found = plain_pgd(plain, images, labels, images, 10, RADIUS / 4)
        optimiser.zero_grad()
        F.cross_entropy(plain(found), labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def fast() -> None:
        found = pgd(network, images, labels, radius=RADIUS, steps=10, step=RADIUS / 4, start=images)
        training.step(0, found, labels)

    apart(1, slow, fast)
    by_hand, ours = benchmark.pedantic(lambda: apart(ROUNDS, slow, fast), rounds=1)
    benchmark.extra_info["plain over fast"] = by_hand / ours
    assert ours < by_hand * 1.02


def test_several_seeds_together(benchmark: Any, batch: tuple[Tensor, Tensor]) -> None:
    """The gradients of three networks in one call, against one after the other, as a run has them."""
    networks = [build_network(ResNet8(), SHAPE, 10, "fp32", HOST, seed).network for seed in range(3)]
    images = torch.stack([batch[0].roll(place, 0) for place in range(3)])
    labels = torch.stack([batch[1].roll(place, 0) for place in range(3)])
    weights, buffers = stack_module_state(networks)  # type: ignore[arg-type]
    weights = {name: value.detach() for name, value in weights.items()}

    def loss(weights: Any, buffers: Any, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(networks[0], (weights, buffers), (images,)), labels)

    slopes = vmap(grad(loss))

    def together() -> Any:
        return slopes(weights, {name: value.clone() for name, value in buffers.items()}, images, labels)

    def one_by_one() -> list[tuple[Tensor, ...]]:
        losses = [F.cross_entropy(net(x), y) for net, x, y in zip(networks, images, labels, strict=True)]
        return [torch.autograd.grad(loss, list(net.parameters())) for net, loss in zip(networks, losses, strict=True)]

    for found, *expected in zip(together().values(), *one_by_one(), strict=True):
        assert torch.allclose(found, torch.stack(expected), rtol=1e-3, atol=1e-5)
    alone, joint = benchmark.pedantic(lambda: apart(ROUNDS, one_by_one, together), rounds=1)
    benchmark.extra_info["one by one over together"] = alone / joint


def beside(engine: Callable[[Callable[[], None]], object], bare: Iterator[object]) -> float:
    """Return the seconds of an engine, which calls what it is given in each step, over those of a bare loop's steps.

    They take turns step by step, as a machine's speed changes from second to second by more than the engine costs.
    Turns in which it stalled, so that either took half again as long as usual, count for neither.
    """
    clock = [time.perf_counter()]  # engine, bare, engine, bare, ..., and what the engine has left to do

    def turn() -> None:
        clock.append(time.perf_counter())
        next(bare)
        clock.append(time.perf_counter())

    engine(turn)
    clock.append(time.perf_counter())
    next(bare, None)
    clock.append(time.perf_counter())
    spans = [end - start for start, end in pairwise(clock)]
    first, *turns, last = zip(spans[::2], spans[1::2], strict=True)
    stalled = 1.5 * median(span for turn in turns for span in turn)
    ours, theirs = zip(first, *(turn for turn in turns if max(turn) < stalled), last, strict=True)
    return sum(ours) / sum(theirs)


def test_the_engine_costs_less_than_two_percent_of_a_cell(benchmark: Any, tmp_path: Path) -> None:
    """A cell with everything around it, against a bare loop over the same batches with the same passes."""
    store = Store(tmp_path)
    store.prepare()
    attack = registry().build("breaker", "adv-linf:steps=10")
    (cell,) = (one for one in planned([], [attack]).cells if one.chain[0] == attack)  # type: ignore[list-item]
    recipe = Recipe(steps=150, batch=64, evaluations=1)
    place = Workspace(store, HOST)
    run_job(cell.protect, place, lambda *step: None)
    data = load_dataset(cell.protect.source, "", store)
    shape, classes = data.test.images.shape[1:], len(data.classes)
    seed = derive_seed(cell.protect.seed, "train")

    def engine(turn: Callable[[], None]) -> None:
        class Turn(Breaker):
            """Nothing but another's turn, ahead of the attack."""

            name = "turn"

            def attack(self, network: Any, images: Tensor, targets: Tensor, progress: float) -> Tensor:
                turn()
                return images

        run_job(Cell(cell.protect, (Turn(), *cell.chain), ResNet8(), recipe), place, lambda *step: None)

    def bare() -> Iterator[None]:
        network = build_network(ResNet8(), shape, classes, "fp32", HOST, seed)
        training = Training(network, recipe, len(data.train.labels), seed)
        pixels = Pixels(data.train.images, HOST)
        for step in range(recipe.steps):
            index = training.batch(step)
            images = cell.protect.source.augment(pixels[index])
            images = cell.chain[0].attack(network, images, data.train.labels[index], step / recipe.steps)
            training.step(step, images, data.train.labels[index])
            yield
        evaluate_network(network, data.test, classes)

    beside(engine, bare())
    shares = benchmark.pedantic(lambda: [beside(engine, bare()) for _ in range(ROUNDS)], rounds=1)
    benchmark.extra_info["engine over bare, each round"] = shares
    assert median(shares) < 1.02
