"""The contract that every breaker must keep, rule by rule."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from uebench.authoring.sample_run import CLASSES, DRAW, HOST, SHAPE, Finding, ProbeTarget, SampleSource
from uebench.components.errors import ContractError, UserError
from uebench.components.interfaces import Breaker, Choice
from uebench.components.spec import chain_alternatives
from uebench.compute.pixels import to_float
from uebench.compute.seeds import seed_generators
from uebench.compute.train import build_network
from uebench.jobs.training_set import apply_filters

IN_RANGE = "return float32 images in [0, 1]"


def breaker_findings(breaker: Breaker) -> Iterator[Finding]:
    """Yield a finding for every rule for breakers."""
    train = SampleSource().load(Path()).train
    images, labels = to_float(train.images), train.labels
    soft = torch.nn.functional.one_hot(labels, CLASSES).float()
    given = images.clone(), labels.clone(), soft.clone()
    yield from _filter_findings(breaker, train.images, labels)
    yield from _augment_findings(breaker, given[0], given[2])
    yield from _attack_findings(breaker, given[0], given[1])
    unchanged = all(map(torch.equal, given, (images, labels, soft)))
    yield Finding("leaves its inputs alone", unchanged, "work on a copy")
    same = all(map(torch.equal, _batch(breaker, HOST), _batch(breaker, HOST)))
    yield Finding("same seed, same batch", same, DRAW)
    if choice := breaker.choice():
        yield from _choice_findings(breaker, choice)
    yield from _neutral_findings(breaker, train.images, labels)


def use_breaker_on_device(breaker: Breaker, device: torch.device) -> None:
    """Call every method of a breaker on a device."""
    train = SampleSource().load(Path()).train
    apply_filters((breaker,), train.images.to(device), train.labels.to(device), 0)
    images, targets = _batch(breaker, device)
    torch.nn.functional.cross_entropy(build_network(ProbeTarget(), SHAPE, CLASSES, "fp32", device, 0)(images), targets)


def _filter_findings(breaker: Breaker, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Finding]:
    try:
        first, second = (apply_filters((breaker,), images, labels, 0) for _ in range(2))
        yield Finding("same seed, same filter", torch.equal(first, second), DRAW)
        reason = ""
    except ContractError as error:
        reason = str(error)
    yield Finding("filter keeps shape and type", not reason, reason)


def _augment_findings(breaker: Breaker, images: torch.Tensor, soft: torch.Tensor) -> Iterator[Finding]:
    shape = images.shape
    seed_generators(0)
    augmented, targets = breaker.augment(images, soft)
    yield Finding("augment keeps shape, type and range", _fits(augmented, shape), IN_RANGE)
    fits = targets.shape == (len(images), CLASSES) and bool((targets >= 0).all())
    fits = fits and torch.allclose(targets.sum(1), torch.ones(len(images)))
    yield Finding("augment returns soft targets", fits, "return float32 (b, classes), each row summing to 1")


def _attack_findings(breaker: Breaker, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Finding]:
    shape = images.shape
    network = build_network(ProbeTarget(), SHAPE, CLASSES, "fp32", HOST, 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attacked = breaker.attack(network, images, labels, 0.0).detach()
    yield Finding("attack keeps shape, type and range", _fits(attacked, shape), IN_RANGE)
    share = breaker.attacked_accuracy(network, images, labels)
    fits = share is None or (isinstance(share, torch.Tensor) and share.numel() == 1 and 0 <= float(share) <= 1)
    yield Finding("attacked_accuracy is a share", fits, "return a tensor of one value in [0, 1], or None")
    same = all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    restored = all(module.training for module in network.modules()) and all(
        weight.requires_grad and weight.grad is None for weight in network.parameters()
    )
    advice = "attack inside `with kit.frozen(model)`, or with kit.pgd"
    yield Finding("attack leaves the model alone", same and restored, advice)


def _choice_findings(breaker: Breaker, choice: Choice) -> Iterator[Finding]:
    own = [part for part in ("filter", "augment", "attack") if getattr(type(breaker), part) != getattr(Breaker, part)]
    yield Finding("does nothing but choose", not own, "leave filter, augment and attack to the chains to choose from")
    try:
        reason = "" if len(chain_alternatives((breaker,))) > 1 else "return two chains or more"
    except UserError as error:
        reason = str(error)
    yield Finding("chooses among chains", not reason, reason)
    partial = 0 < choice.held_out < 1
    yield Finding("holds out some images", partial, f"hold out a share in (0, 1), not {choice.held_out:g}")


def _neutral_findings(breaker: Breaker, images: torch.Tensor, labels: torch.Tensor) -> Iterator[Finding]:
    """Yield for each parameter whether the breaker changes nothing at the value declared as `neutral`."""
    network = build_network(ProbeTarget(), SHAPE, CLASSES, "fp32", HOST, 0)
    soft = torch.nn.functional.one_hot(labels, CLASSES).float()
    for field in fields(breaker):
        if (neutral := field.metadata.get("neutral")) is not None:
            idle = replace(breaker, **{field.name: neutral})
            augmented, targets = idle.augment(to_float(apply_filters((idle,), images, labels, 0)), soft)
            same = torch.equal(augmented, to_float(images)) and torch.equal(targets, soft)
            same = same and torch.equal(idle.attack(network, augmented, labels, 0.0), augmented)
            advice = "return the images, or declare no `neutral`"
            yield Finding(f"does nothing with {field.name}={neutral:g}", same, advice)


def _fits(images: Any, shape: torch.Size) -> bool:
    return (
        isinstance(images, torch.Tensor)
        and images.shape == shape
        and images.dtype == torch.float32
        and bool(((images >= 0) & (images <= 1)).all())
    )


def _batch(breaker: Breaker, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an augmented and attacked batch, and its targets."""
    train = SampleSource().load(Path()).train
    network = build_network(ProbeTarget(), SHAPE, CLASSES, "fp32", device, 0)
    labels = train.labels.to(device)
    soft = torch.nn.functional.one_hot(labels, CLASSES).float()
    images, targets = breaker.augment(to_float(train.images).to(device), soft)
    return breaker.attack(network, images, labels, 0.0).detach(), targets
