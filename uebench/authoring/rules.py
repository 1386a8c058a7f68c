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
    """Yield a finding for every rule for components of any kind."""
    yield Finding("says what it is", bool(inspect.cleandoc(component.__doc__ or "")), "write a docstring for the class")
    yield Finding("names its source", bool(component.paper), "set `paper` to where the method is published, or 'none'")
    try:
        picklable = bool(pickle.dumps(component))  # fails for a class that a worker could not import
    except Exception:
        picklable = False
    yield Finding(
        "can be sent to a worker", picklable, "define the class at the top of a module, with plain parameters"
    )


def _noise_findings(noise: Noise) -> Iterator[Finding]:
    """Yield the findings for a noise, made in a few of its steps, or in all if that fails."""
    findings: list[Finding] = []
    with suppress(Exception):
        findings = list(_noise_findings_in(noise, whole=False))
    kept = findings and all(finding.kept for finding in findings)
    yield from findings if kept else _noise_findings_in(noise, whole=True)


def _noise_findings_in(noise: Noise, whole: bool) -> Iterator[Finding]:
    data = SampleSource().load(Path())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        delta, images, labels = make_sample_noise(noise, store, whole=whole)
        unchanged = torch.equal(images, to_float(data.train.images)) and torch.equal(labels, data.train.labels)
        yield Finding("leaves its inputs alone", unchanged, "work on a copy: images.clone()")
        try:
            released, reason = release_images(noise, data.train.images, delta), ""
        except ContractError as error:
            released, reason = None, str(error)
        yield Finding("keeps shape, type and budget", released is not None, reason)
        if released is None:
            return
        excess = budget_excess(noise.budget(SHAPE), (released.float() - data.train.images.float()) / 255)
        yield Finding("keeps the budget in 8 bits", excess <= 1 + 1e-5, f"{excess:.3g} of it on the released images")
        store.forget("check")
        second_delta, *_ = make_sample_noise(noise, store, whole=whole)
        yield Finding("same seed, same bytes", torch.equal(delta, second_delta), DRAW)
        store.forget("check")
        try:
            make_sample_noise(noise, store, dies_after=2, whole=whole)
        except Interrupted:
            resumed, *_ = make_sample_noise(noise, store, whole=whole)
            advice = "pass all state to context.keep(), restore it from context.kept(), and loop over context.steps()"
            yield Finding("resumes to the same bytes", torch.equal(delta, resumed), advice)


def _use_noise(noise: Noise, device: torch.device) -> None:
    try:
        _use_noise_findings_in(noise, False, device)
    except Exception:
        _use_noise_findings_in(noise, True, device)


def _use_noise_findings_in(noise: Noise, whole: bool, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        try:
            make_sample_noise(noise, store, device, dies_after=2, whole=whole)
        except Interrupted:
            make_sample_noise(noise, store, device, whole=whole)  # the checkpoint is loaded on the host


def _target_findings(target: Target) -> Iterator[Finding]:
    network = build_network(target, LARGE, CLASSES, "fp32", HOST, 0)
    images = torch.rand(4, *LARGE, requires_grad=True)
    logits = network(images)
    fits = logits.shape == (len(images), CLASSES) and logits.dtype == torch.float32 and bool(logits.isfinite().all())
    yield Finding("gives logits", fits, f"return finite float32 (b, classes), not {tuple(logits.shape)}")
    (gradient,) = torch.autograd.grad(logits.square().sum(), images, allow_unused=True)
    yield Finding("lets gradients reach the image", _has_gradient(gradient), "use differentiable operations only")
    fresh = build_network(target, LARGE, CLASSES, "fp32", HOST, 0).state_dict()
    weights = dict(network.named_parameters())
    same = all(torch.equal(value, fresh[name]) for name, value in weights.items())
    yield Finding("same seed, same weights", same, "initialise from torch's default generator only")
    rates = target.rates(target.build(LARGE, CLASSES))
    known = all(f"network.{name}" in weights for name in rates)
    yield Finding("rates are of its parameters", known, "return names of network.named_parameters()")


def _use_target(target: Target, device: torch.device) -> None:
    logits = build_network(target, LARGE, CLASSES, "fp32", device, 0)(torch.rand(4, *LARGE, device=device))
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=device))


def _has_gradient(gradient: torch.Tensor | None) -> bool:
    return gradient is not None and bool(gradient.abs().sum() > 0)


def _dataset_findings(source: Source) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        data = source.load(Path(folder))
        try:
            validate_dataset(source, data)
            reason = ""
        except UserError as error:
            reason = str(error)
        yield Finding("keeps shapes, types and labels", not reason, reason)
        declared = {"shape": source.shape(), "class_count": source.class_count()}
        loaded = {"shape": tuple(data.test.images.shape[1:]), "class_count": len(data.classes)}
        wrong = [
            f"{name} is {loaded[name]}, not {value}"
            for name, value in declared.items()
            if value is not None and value != loaded[name]
        ]
        yield Finding("declares what it loads", not wrong, "; ".join(wrong))
        same = _equal_datasets(data, source.load(Path(folder)))
        yield Finding("loads the same each time", same, "draw nothing at random, or from a fixed seed")
        images = to_float(data.train.images[:8])
        given = images.clone()
        seed_generators(0)
        augmented = source.augment(given)
        yield Finding(
            "augment keeps the range", bool(((augmented >= 0) & (augmented <= 1)).all()), "return images in [0, 1]"
        )
        yield Finding("leaves its inputs alone", torch.equal(given, images), "work on a copy: images.clone()")
        seed_generators(0)
        yield Finding("same seed, same augmentation", torch.equal(augmented, source.augment(images.clone())), DRAW)
        given.requires_grad_(True)
        (gradient,) = torch.autograd.grad(source.augment(given).sum(), given, allow_unused=True)
        yield Finding("gradients pass through augment", _has_gradient(gradient), "use differentiable operations only")


def _use_dataset(source: Source, device: torch.device) -> None:
    with tempfile.TemporaryDirectory() as folder:
        augmented = source.augment(to_float(source.load(Path(folder)).train.images[:8]).to(device))
    torch.zeros(augmented.shape, device=device).add_(augmented)


def _equal_datasets(first: Dataset, second: Dataset) -> bool:
    splits = ((first.train, second.train), (first.test, second.test))
    pairs = [(getattr(left, part), getattr(right, part)) for left, right in splits for part in ("images", "labels")]
    texts = [[list(data.classes), list(data.names), list(data.skipped)] for data in (first, second)]
    return texts[0] == texts[1] and all(torch.equal(left, right) for left, right in pairs)


RULES_BY_KIND: dict[str, tuple[Callable[[Any], Iterator[Finding]], Callable[[Any, torch.device], object]]] = {
    "noise": (_noise_findings, _use_noise),
    "breaker": (breaker_findings, use_breaker_on_device),
    "target": (_target_findings, _use_target),
    "dataset": (_dataset_findings, _use_dataset),
}
"""For each kind: the function that yields its findings, and the one that uses a component on another device."""
