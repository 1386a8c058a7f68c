"""The contract that every component must keep, rule by rule, each tried on a tiny set of images."""

from __future__ import annotations

import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from uebench.authoring.breaker_rules import breaker_findings, use_breaker_on_device
from uebench.authoring.sample_run import (
    CLASSES,
    DRAW,
    HOST,
    LARGE,
    SHAPE,
    Finding,
    Interrupted,
    SampleSource,
    make_sample_noise,
)
from uebench.components.component import Component
from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Dataset, Noise, Source, Target
from uebench.compute.audit import budget_excess, release_images
from uebench.compute.pixels import to_float
from uebench.compute.seeds import seed_generators
from uebench.compute.train import build_network
from uebench.jobs.datasets import validate_dataset
from uebench.storage.store import Store


def general_findings(component: Component) -> Iterator[Finding]:
    """Yield what came of the rules for components of any kind."""
    yield Finding("says what it is", bool(inspect.cleandoc(component.__doc__ or "")), "write a docstring for the class")
    yield Finding("names its source", bool(component.paper), "set `paper` to where the method is published, or 'none'")
    try:
        sent = bool(pickle.dumps(component))  # fails for a class that a worker could not import
    except Exception:
        sent = False
    yield Finding("can be sent to a worker", sent, "define the class at the top of a module, with plain parameters")


def _noise(noise: Noise) -> Iterator[Finding]:
    """Yield what came of a noise's rules, tried in a few of its steps, and where they do not do in all of them."""
    found: list[Finding] = []
    with suppress(Exception):
        found = list(_noise_in(noise, False))
    yield from found if found and all(finding.kept for finding in found) else _noise_in(noise, True)


def _noise_in(noise: Noise, whole: bool) -> Iterator[Finding]:
    data = SampleSource().load(Path())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        delta, images, labels = make_sample_noise(noise, store, whole=whole)
        untouched = torch.equal(images, to_float(data.train.images)) and torch.equal(labels, data.train.labels)
        yield Finding("leaves its inputs alone", untouched, "work on a copy: images.clone()")
        try:
            released, reason = release_images(noise, data.train.images, delta), ""
        except ContractError as error:
            released, reason = None, str(error)
        yield Finding("keeps shape, type and budget", released is not None, reason)
        if released is None:
            return
        over = budget_excess(noise.budget(SHAPE), (released.float() - data.train.images.float()) / 255)
        yield Finding("keeps the budget in 8 bits", over <= 1 + 1e-5, f"{over:.3g} of it on the released images")
        store.forget("check")
        again, *_ = make_sample_noise(noise, store, whole=whole)
        yield Finding("same seed, same bytes", torch.equal(delta, again), DRAW)
        store.forget("check")
        try:
            make_sample_noise(noise, store, dies_after=2, whole=whole)
        except Interrupted:
            resumed, *_ = make_sample_noise(noise, store, whole=whole)
            advice = "pass all state to context.keep(), take it up from context.kept(), and loop over context.steps()"
            yield Finding("resumes to the same bytes", torch.equal(delta, resumed), advice)


def _noise_on(noise: Noise, device: torch.device) -> None:
    try:
        _noise_in_on(noise, False, device)
    except Exception:
        _noise_in_on(noise, True, device)


def _noise_in_on(noise: Noise, whole: bool, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            make_sample_noise(noise, store, device, dies_after=2, whole=whole)
        except Interrupted:
            make_sample_noise(noise, store, device, whole=whole)  # from a state that comes back on the host


def _target(target: Target) -> Iterator[Finding]:
    network = build_network(target, LARGE, CLASSES, "fp32", HOST, 0)
    images = torch.rand(4, *LARGE, requires_grad=True)
    logits = network(images)
    fits = logits.shape == (len(images), CLASSES) and logits.dtype == torch.float32 and bool(logits.isfinite().all())
    yield Finding("gives logits", fits, f"return finite float32 (b, classes), not {tuple(logits.shape)}")
    (slope,) = torch.autograd.grad(logits.square().sum(), images, allow_unused=True)
    yield Finding("lets gradients reach the image", _flows(slope), "use differentiable operations only")
    fresh = build_network(target, LARGE, CLASSES, "fp32", HOST, 0).state_dict()
    weights = dict(network.named_parameters())
    same = all(torch.equal(value, fresh[name]) for name, value in weights.items())
    yield Finding("same seed, same weights", same, "initialise from torch's default generator only")
    rates = target.rates(target.build(LARGE, CLASSES))
    known = all(f"network.{name}" in weights for name in rates)
    yield Finding("rates are of its parameters", known, "return names of network.named_parameters()")


def _target_on(target: Target, device: torch.device) -> None:
    logits = build_network(target, LARGE, CLASSES, "fp32", device, 0)(torch.rand(4, *LARGE, device=device))
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=device))


def _flows(slope: torch.Tensor | None) -> bool:
    return slope is not None and bool(slope.abs().sum() > 0)


def _dataset(source: Source) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        data = source.load(Path(folder))
        try:
            validate_dataset(source, data)
            reason = ""
        except UserError as error:
            reason = str(error)
        yield Finding("keeps shapes, types and labels", not reason, reason)
        same = _equal(data, source.load(Path(folder)))
        yield Finding("loads the same each time", same, "draw nothing at random, or from a fixed seed")
        images = to_float(data.train.images[:8])
        given = images.clone()
        seed_generators(0)
        seen = source.augment(given)
        yield Finding("augment keeps the range", bool(((seen >= 0) & (seen <= 1)).all()), "return images in [0, 1]")
        yield Finding("leaves its inputs alone", torch.equal(given, images), "work on a copy: images.clone()")
        seed_generators(0)
        yield Finding("same seed, same augmentation", torch.equal(seen, source.augment(images.clone())), DRAW)
        given.requires_grad_(True)
        (slope,) = torch.autograd.grad(source.augment(given).sum(), given, allow_unused=True)
        yield Finding("gradients pass through augment", _flows(slope), "use differentiable operations only")


def _dataset_on(source: Source, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = source.augment(to_float(source.load(Path(folder)).train.images[:8]).to(device))
    torch.zeros(seen.shape, device=device).add_(seen)


def _equal(one: Dataset, other: Dataset) -> bool:
    splits = ((one.train, other.train), (one.test, other.test))
    pairs = [(getattr(mine, part), getattr(theirs, part)) for mine, theirs in splits for part in ("images", "labels")]
    texts = [[list(data.classes), list(data.names), list(data.skipped)] for data in (one, other)]
    return texts[0] == texts[1] and all(torch.equal(mine, theirs) for mine, theirs in pairs)


RULES_BY_KIND: dict[str, tuple[Callable[[Any], Iterator[Finding]], Callable[[Any, torch.device], object]]] = {
    "noise": (_noise, _noise_on),
    "breaker": (breaker_findings, use_breaker_on_device),
    "target": (_target, _target_on),
    "dataset": (_dataset, _dataset_on),
}
"""For each kind what yields its findings, and what a component of it is to do on another device."""
