"""Adversarial examples: the one PGD, its one-step forms, and APGD; noises and breakers share them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal, get_args

import torch

from uebench.compute.batchnorm_folding import batchnorm_folded
from uebench.compute.cuda_graphs import run_recorded
from uebench.compute.norms import Norm, project, step_direction

Attack = Literal["pgd", "fgsm", "rs-fgsm", "apgd"]
"""The inner attacks, for the type of a parameter."""


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """Hold a network in eval mode with no gradient for its weights, and restore both on leaving.

    Running statistics stay untouched and dropout is off inside, and batch norm is folded into the convolutions.
    """
    modes = [one for one in network.modules() if one.training]
    weights = [one for one in network.parameters() if one.requires_grad]
    for module in modes:
        module.training = False
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with batchnorm_folded(network):
            yield
    finally:
        for module in modes:
            module.training = True
        for weight in weights:
            weight.requires_grad_(True)


def image_gradient(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of each image (b,), and its gradient with respect to the image (b, c, h, w).

    images: (b, c, h, w); targets: labels (b,) or soft targets (b, classes). The network is to be `frozen`.
    """
    losses, found = run_recorded(_image_gradient, network, images.detach(), targets)
    assert losses is not None
    assert found is not None
    return losses, found


def _image_gradient(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.detach().requires_grad_(True)
    losses = torch.nn.functional.cross_entropy(network(images), targets, reduction="none")
    (found,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), found


def pgd(
    network: torch.nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    radius: float,
    steps: int,
    step: float,
    norm: Norm = "linf",
    ascend: bool = True,
    start: torch.Tensor | None = None,
    random_start: bool = True,
) -> torch.Tensor:
    """Projected gradient descent in a ball (Madry et al., ICLR 2018), as in the REM code.

    images: float32 (b, c, h, w) in [0, 1]; targets: labels (b,) or soft targets (b, classes). `radius` and `step` are
    in pixel range [0, 1], for L1 and L2 norms of one image. Climbs the cross-entropy, or goes down it with
    `ascend=False`, from `start` where one is given, else from a random point of the ball. The network is in eval mode
    meanwhile. Returns the last iterate, inside the ball and [0, 1]; with radius or steps 0 the images themselves.

    The released code goes along the gradient divided by its norm, in L1 too, brings a point back by scaling it, and
    starts up to radius / steps away in every pixel, far outside and so on the sphere. `l1-exact` takes the steepest
    step of L1, which changes one value, and the nearest point of the ball (Duchi et al., ICML 2008).
    """
    if radius == 0 or steps == 0:
        return images
    images = images.detach()  # the attack is held fixed: no gradient reaches them through the bounds
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)

    def back(point: torch.Tensor) -> torch.Tensor:
        if norm != "linf":
            point = images + project(point - images, radius, norm)
        return point.clamp(lowest, highest)

    found = images.clone()
    if start is not None:
        found = back(start.detach())
    elif random_start:
        reach = radius if norm == "linf" else radius / steps
        found = back(found + torch.empty_like(found).uniform_(-reach, reach))
    with frozen(network):
        for _ in range(steps):
            _, uphill = image_gradient(network, found, targets)
            found = back(found.add(step_direction(uphill, norm), alpha=step if ascend else -step))
    return found


def apgd(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, *, radius: float, steps: int
) -> torch.Tensor:
    """Auto-PGD on the cross-entropy in the L-inf ball (Croce and Hein, ICML 2020, algorithm 1), from a random point.

    Arguments as for `pgd`. Each image has its own step size, from twice the radius, halved at a checkpoint where fewer
    than three quarters of the steps since the last one climbed, or where neither it nor the best loss has changed
    since; the image then restarts from its best point. Returns the best point of each image; takes one more forward
    pass than steps.
    """
    if radius == 0 or steps == 0:
        return images
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)

    def look(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, uphill = image_gradient(network, point, targets)
        return losses, uphill.sign()

    def fill(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, 1, 1, 1)

    marks = _checkpoints(steps)
    now = before = (images + torch.empty_like(images).uniform_(-radius, radius)).clamp(lowest, highest)
    size = torch.full_like(images[:, 0, 0, 0], 2 * radius)
    with frozen(network):
        loss, ways = look(now)
        best, best_loss, best_ways = now, loss, ways
        marked_loss, marked_size, climbed = best_loss, size, torch.zeros_like(size)
        for step in range(1, steps + 1):
            aim = (now + fill(size) * ways).clamp(lowest, highest)
            pull = aim - now if step == 1 else 0.75 * (aim - now) + 0.25 * (now - before)
            before, now = now, (now + pull).clamp(lowest, highest)
            last = loss
            if step < steps:
                loss, ways = look(now)
            else:
                with torch.no_grad():
                    loss = torch.nn.functional.cross_entropy(network(now), targets, reduction="none")
            climbed = climbed + (loss > last)
            better = loss > best_loss
            best, best_ways = torch.where(fill(better), now, best), torch.where(fill(better), ways, best_ways)
            best_loss = torch.where(better, loss, best_loss)
            if step in marks:
                slow = climbed < 0.75 * (step - marks[step])
                stuck = (size == marked_size) & (best_loss == marked_loss)
                marked_loss, marked_size, climbed = best_loss, size, torch.zeros_like(size)
                again = slow | stuck
                size = torch.where(again, size / 2, size)
                now, ways = torch.where(fill(again), best, now), torch.where(fill(again), best_ways, ways)
                loss = torch.where(again, best_loss, loss)
    return best.detach()


def _checkpoints(steps: int) -> dict[int, int]:
    """Return APGD's checkpoints below `steps`, each with the one before it; the shares of the steps are per cent.

    In whole numbers: summed up as floats, 57 per cent of a hundred steps are the 58th.
    """
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    marks = sorted({-(-share * steps // 100) for share in shares})
    return {later: earlier for earlier, later in pairwise(marks) if later < steps}


def adversary(
    attack: Attack,
    network: torch.nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    *,
    radius: float,
    steps: int,
    step: float,
    norm: Norm = "linf",
) -> torch.Tensor:
    """Return adversarial examples by a named attack; arguments as for `pgd`.

    `fgsm` is one step of the radius from the image itself, `rs-fgsm` one of 1.25 radii from a random point (Wong et
    al., ICLR 2020); both pass over `steps` and `step`, `apgd`, which is for L-inf only, over `step`. With radius or
    steps 0 the images themselves.
    """
    if radius == 0 or steps == 0:
        return images
    if attack == "pgd":
        return pgd(network, images, targets, radius=radius, steps=steps, step=step, norm=norm)
    if attack == "fgsm":
        return pgd(network, images, targets, radius=radius, steps=1, step=radius, norm=norm, random_start=False)
    if attack == "rs-fgsm":
        return pgd(network, images, targets, radius=radius, steps=1, step=1.25 * radius, norm=norm)
    if attack == "apgd" and norm == "linf":
        return apgd(network, images, targets, radius=radius, steps=steps)
    raise ValueError(
        f"no attack {attack!r} in {norm}; known: {', '.join(get_args(Attack))}, of which apgd in linf only"
    )


def attack_passes(attack: Attack, steps: int) -> int:
    """Return the passes, forward and backward, of an image that `adversary` takes; APGD's last look is left out."""
    return steps if attack in ("pgd", "apgd") else min(steps, 1)


def accuracy_under_pgd(
    network: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    radius: float,
    norm: Norm = "linf",
    steps: int = 10,
) -> torch.Tensor:
    """Return the share of images (b, c, h, w) that a network gets right under PGD, a scalar tensor on their device.

    Steps are of 2.5 radii / steps (Madry et al., ICLR 2018, appendix); for `Breaker.attacked_accuracy`.
    """
    attacked = pgd(network, images, labels, radius=radius, steps=steps, step=2.5 * radius / steps, norm=norm)
    with frozen(network), torch.no_grad():
        right: torch.Tensor = network(attacked).argmax(1) == labels
    return right.float().mean()
