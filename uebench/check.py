"""The contract every component must keep, checked rule by rule on a tiny set of images."""

from __future__ import annotations

import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from uebench import audit, display, plan, spec
from uebench.api import Breaker, Component, Dataset, Noise, Recipe, Source, Split, Target, UserError
from uebench.data import validate
from uebench.journal import StoredJournal
from uebench.pixels import Pixels, to_float
from uebench.place import Place
from uebench.registry import registry
from uebench.seeds import sow
from uebench.store import Store
from uebench.suite import Suite
from uebench.train import build
from uebench.work import LentContext, filtered

SHAPE, CLASSES, IMAGES = (3, 16, 16), 4, 24
LARGE = (3, 32, 32)
"""What networks are tried on; some take nothing smaller."""


@dataclass(frozen=True)
class Finding:
    """Whether a rule is kept, and what to do where it is not."""

    rule: str
    kept: bool
    advice: str = ""


class Sample(Source):
    """Random images with one brightness per class."""

    name = "check-sample"

    def load(self, folder: Path) -> Dataset:
        """Return the images, the same every time."""
        draw = torch.Generator().manual_seed(0)
        labels = torch.arange(IMAGES) % CLASSES
        images = torch.randint(0, 128, (IMAGES, *SHAPE), generator=draw) + 32 * labels[:, None, None, None]
        split = Split(images.to(torch.uint8), labels)
        return Dataset(split, split, [str(label) for label in range(CLASSES)])


class Probe(Target):
    """A small network for attacks to be tried on."""

    name = "check-probe"

    def build(self, shape: tuple[int, int, int], classes: int) -> torch.nn.Module:
        """Return batch norm and a linear layer."""
        norm, flat = torch.nn.BatchNorm2d(shape[0]), torch.nn.Flatten()
        return torch.nn.Sequential(norm, flat, torch.nn.Linear(shape[0] * shape[1] * shape[2], classes))


class Interrupted(Exception):
    """Stands for the death of the process."""


class ShortJournal(StoredJournal):
    """Goes through the first two and the last two steps only, and can die after a number of them."""

    dies_after: int | None = None

    def steps(self, count: int) -> Iterator[int]:
        """Yield a few of the steps that are left."""
        done = 0
        for step in super().steps(count):
            if 2 <= step < count - 2:
                continue
            if done == self.dies_after:
                raise Interrupted
            done += 1
            yield step


def find(text: str, suite: Suite) -> list[tuple[str, Component]]:
    """Return every component that a specification names, of whatever kind; raises `UserError` where there is none."""
    name, _ = spec.parse(text)
    kinds = [kind for kind, entries in registry().entries.items() if name in entries]
    if not kinds:
        known = {name for entries in registry().entries.values() for name in entries}
        raise UserError(f"no component is called {name!r}{spec.nearest(name, known)}")
    return [(kind, registry().build(kind, text, suite.defaults)) for kind in kinds]


def check(kind: str, component: Component) -> list[Finding]:
    """Return what came of every rule for a component of this kind."""
    rules: dict[str, Callable[[Any], Iterator[Finding]]] = {
        "noise": _noise,
        "breaker": _breaker,
        "target": _target,
        "dataset": _dataset,
    }
    findings = list(_anything(component))
    try:
        findings += rules[kind](component)
    except Exception as error:
        findings.append(Finding("runs", False, f"{type(error).__name__}: {error}"))
    return findings


def show(console: Console, kind: str, component: Component, findings: list[Finding]) -> None:
    """Print the findings as a table."""
    rows = [["pass" if one.kept else "FAIL", one.rule, "" if one.kept else one.advice] for one in findings]
    display.show(console, f"{kind} {spec.label(component)}", ["", "rule", "what to do"], rows)


def _anything(component: Component) -> Iterator[Finding]:
    yield Finding("says what it is", bool(inspect.cleandoc(component.__doc__ or "")), "write a docstring for the class")
    yield Finding("names its source", bool(component.paper), "set `paper` to where the method is published, or 'none'")
    try:
        sent = bool(pickle.dumps(component))  # fails for a class that a worker could not import
    except Exception:
        sent = False
    yield Finding("can be sent to a worker", sent, "define the class at the top of a module, with plain parameters")


def _make(noise: Noise, store: Store, data: Dataset, dies_after: int | None = None) -> tuple[Any, Tensor, Tensor]:
    """Make a noise in a few steps; returns it, and the images and labels it was given."""
    place = Place(store, torch.device("cpu"), every=0)
    job = plan.protect(Sample(), "", noise, Recipe(steps=3), seed=0)
    journal = ShortJournal(store, "check", 0, lambda step, count, loss: None, every=0)
    journal.dies_after = dies_after
    images, labels = to_float(data.train.images), data.train.labels.clone()
    given: Any = Pixels(data.train.images.clone(), place.device) if noise.streams else images
    sow(0)
    delta = noise.make(given, labels, LentContext(job, data, place, journal))
    return delta, given[:], labels


def _noise(noise: Noise) -> Iterator[Finding]:
    data = Sample().load(Path())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        delta, images, labels = _make(noise, store, data)
        untouched = torch.equal(images, data.train.images.float() / 255) and torch.equal(labels, data.train.labels)
        yield Finding("leaves its inputs alone", untouched, "work on a copy: images.clone()")
        try:
            released, reason = audit.release(noise, data.train.images, delta), ""
        except audit.ContractError as error:
            released, reason = None, str(error)
        yield Finding("keeps shape, type and budget", released is not None, reason)
        if released is None:
            return
        over = audit.excess(noise.budget(SHAPE), (released.float() - data.train.images.float()) / 255)
        yield Finding("keeps the budget in 8 bits", over <= 1 + 1e-5, f"{over:.3g} of it on the released images")
        store.forget("check")
        again, *_ = _make(noise, store, data)
        yield Finding("same seed, same bytes", torch.equal(delta, again), "draw from torch's default generator only")
        store.forget("check")
        try:
            _make(noise, store, data, dies_after=2)
        except Interrupted:
            resumed, *_ = _make(noise, store, data)
            advice = "pass all state to context.keep(), take it up from context.kept(), and loop over context.steps()"
            yield Finding("resumes to the same bytes", torch.equal(delta, resumed), advice)


def _within(images: Any, like: Tensor) -> bool:
    return (
        isinstance(images, Tensor)
        and images.shape == like.shape
        and images.dtype == torch.float32
        and bool(((images >= 0) & (images <= 1)).all())
    )


def _breaker(breaker: Breaker) -> Iterator[Finding]:
    data = Sample().load(Path())
    images, labels = data.train.images.float() / 255, data.train.labels
    given = images.clone()
    try:
        once, reason = filtered((breaker,), data.train.images, 0), ""
        yield Finding(
            "same seed, same filter", torch.equal(once, filtered((breaker,), data.train.images, 0)), "seed it"
        )
    except audit.ContractError as error:
        reason = str(error)
    yield Finding("filter keeps shape and type", not reason, reason)
    sow(0)
    seen, targets = breaker.augment(given, labels)
    yield Finding("augment keeps shape, type and range", _within(seen, images), "return float32 images in [0, 1]")
    fits = targets.shape in (labels.shape, (len(labels), CLASSES))
    yield Finding("augment returns targets", fits, "return labels (b,) or soft targets (b, classes)")
    network = build(Probe(), SHAPE, CLASSES, "fp32", torch.device("cpu"), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attacked = breaker.attack(network, given, labels).detach()
    yield Finding("attack keeps shape, type and range", _within(attacked, images), "return float32 images in [0, 1]")
    same = all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    restored = all(module.training for module in network.modules()) and all(
        weight.requires_grad and weight.grad is None for weight in network.parameters()
    )
    yield Finding(
        "attack leaves the model alone", same and restored, "attack inside `with kit.frozen(model)`, or with kit.pgd"
    )
    yield Finding("leaves its inputs alone", torch.equal(given, images), "work on a copy")


def _target(target: Target) -> Iterator[Finding]:
    network = build(target, LARGE, CLASSES, "fp32", torch.device("cpu"), 0)
    images = torch.rand(4, *LARGE, requires_grad=True)
    logits = network(images)
    fits = logits.shape == (len(images), CLASSES) and logits.dtype == torch.float32 and bool(logits.isfinite().all())
    yield Finding("gives logits", fits, f"return finite float32 (b, classes), not {tuple(logits.shape)}")
    (slope,) = torch.autograd.grad(logits.square().sum(), images, allow_unused=True)
    reached = slope is not None and bool(slope.abs().sum() > 0)
    yield Finding("lets gradients reach the image", reached, "use differentiable operations only")
    fresh = build(target, LARGE, CLASSES, "fp32", torch.device("cpu"), 0).state_dict()
    weights = dict(network.named_parameters())
    same = all(torch.equal(value, fresh[name]) for name, value in weights.items())
    yield Finding("same seed, same weights", same, "initialise from torch's default generator only")


def _dataset(source: Source) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        data = source.load(Path(folder))
        try:
            validate(source, data)
            reason = ""
        except UserError as error:
            reason = str(error)
        yield Finding("keeps shapes, types and labels", not reason, reason)
        again = source.load(Path(folder))
        same = torch.equal(data.train.images, again.train.images) and torch.equal(data.test.labels, again.test.labels)
        yield Finding("loads the same each time", same, "draw nothing at random, or from a fixed seed")
        images = (data.train.images[:8].float() / 255).requires_grad_(True)
        seen = source.augment(images)
        yield Finding("augment keeps the range", bool(((seen >= 0) & (seen <= 1)).all()), "return images in [0, 1]")
        (slope,) = torch.autograd.grad(seen.sum(), images, allow_unused=True)
        yield Finding("gradients pass through augment", slope is not None, "use differentiable operations only")
