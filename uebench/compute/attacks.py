"""Adversarial attacks for noises, breakers and evaluation: PGD, its one-step variants, and APGD."""

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
"""Names of the attacks; plug-ins use it as the type of a parameter."""


@contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """Put a network in eval mode and turn off the gradients of its weights; restore both on exit.

    Inside the context, running statistics stay fixed, dropout is off, and batch norm is folded into the convolutions.
    """
    training_modules = [module for module in network.modules() if module.training]
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    for module in training_modules:
        module.training = False
    for weight in weights:
        weight.requires_grad_(False)
    try:
        with batchnorm_folded(network):
            yield
    finally:
        for module in training_modules:
            module.training = True
        for weight in weights:
            weight.requires_grad_(True)


def image_gradient(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cross-entropy of each image (b,), and its gradient with respect to the image (b, c, h, w).

    images: (b, c, h, w); targets: labels (b,) or soft targets (b, classes). Call it inside `frozen(network)`.
    """
    losses, gradients = run_recorded(_image_gradient, network, images.detach(), targets)
    assert losses is not None
    assert gradients is not None
    return losses, gradients


def _image_gradient(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    images = images.detach().requires_grad_(True)
    losses = torch.nn.functional.cross_entropy(network(images), targets, reduction="none")
    (gradients,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), gradients


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
    """Run projected gradient descent in a ball (Madry et al., ICLR 2018), as the REM code does.

    images: float32 (b, c, h, w) in [0, 1]; targets: labels (b,) or soft targets (b, classes). `radius` and `step` use
    the pixel range [0, 1]; for L1 and L2 they are norms of one whole image. The attack increases the cross-entropy, or
    decreases it with `ascend=False`. It starts from `start` if given, otherwise from a random point of the ball, or
    from the images with `random_start=False`. The network is in eval mode during the attack. Returns the last iterate,
    which lies in the ball and in [0, 1]; returns the images unchanged if radius or steps is 0.

    For L2 and L1 the released REM code steps along the gradient divided by its norm, and projects a point by scaling
    it. It starts up to radius / steps away in every pixel: far outside the ball, and therefore on the sphere after the
    projection. `l1-exact` takes the steepest step of L1, which changes one value, and projects to the nearest point of
    the ball (Duchi et al., ICML 2008).
    """
    if radius == 0 or steps == 0:
        return images
    images = images.detach()  # the bounds depend on the images: without this, gradients would flow through them
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)

    def project_to_bounds(point: torch.Tensor) -> torch.Tensor:
        if norm != "linf":
            point = images + project(point - images, radius, norm)
        return point.clamp(lowest, highest)

    attacked = images.clone()
    if start is not None:
        attacked = project_to_bounds(start.detach())
    elif random_start:
        distance = radius if norm == "linf" else radius / steps
        attacked = project_to_bounds(attacked + torch.empty_like(attacked).uniform_(-distance, distance))
    with frozen(network):
        for _ in range(steps):
            _, gradients = image_gradient(network, attacked, targets)
            direction = step_direction(gradients, norm)
            attacked = project_to_bounds(attacked.add(direction, alpha=step if ascend else -step))
    return attacked


def apgd(
    network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, *, radius: float, steps: int
) -> torch.Tensor:
    """Run Auto-PGD on the cross-entropy in the L-inf ball (Croce and Hein, ICML 2020, algorithm 1).

    Arguments are those of `pgd`; the start is a random point of the ball. Each image has its own step size, at first
    twice the radius. At a checkpoint the step size is halved if fewer than three quarters of the steps since the last
    checkpoint increased the loss, or if neither the step size nor the best loss has changed since then; the image then
    restarts from its best point. Returns the best point of each image. Needs one more forward pass than steps.
    """
    if radius == 0 or steps == 0:
        return images
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)

    def loss_and_sign(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, gradients = image_gradient(network, point, targets)
        return losses, gradients.sign()

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, 1, 1, 1)

    checkpoints = _checkpoint_steps(steps)
    point = previous = (images + torch.empty_like(images).uniform_(-radius, radius)).clamp(lowest, highest)
    size = torch.full_like(images[:, 0, 0, 0], 2 * radius)
    with frozen(network):
        loss, sign = loss_and_sign(point)
        best, best_loss, best_sign = point, loss, sign
        checkpoint_loss, checkpoint_size, increases = best_loss, size, torch.zeros_like(size)
        for step in range(1, steps + 1):
            target_point = (point + per_image(size) * sign).clamp(lowest, highest)
            move = target_point - point
            if step > 1:
                move = 0.75 * move + 0.25 * (point - previous)
            previous, point = point, (point + move).clamp(lowest, highest)
            previous_loss = loss
            if step < steps:
                loss, sign = loss_and_sign(point)
            else:
                with torch.no_grad():
                    loss = torch.nn.functional.cross_entropy(network(point), targets, reduction="none")
            increases = increases + (loss > previous_loss)
            better = loss > best_loss
            best = torch.where(per_image(better), point, best)
            best_sign = torch.where(per_image(better), sign, best_sign)
            best_loss = torch.where(better, loss, best_loss)
            if step in checkpoints:
                slow = increases < 0.75 * (step - checkpoints[step])
                unchanged = (size == checkpoint_size) & (best_loss == checkpoint_loss)
                checkpoint_loss, checkpoint_size, increases = best_loss, size, torch.zeros_like(size)
                restart = slow | unchanged
                size = torch.where(restart, size / 2, size)
                point = torch.where(per_image(restart), best, point)
                sign = torch.where(per_image(restart), best_sign, sign)
                loss = torch.where(restart, best_loss, loss)
    return best.detach()


def _checkpoint_steps(steps: int) -> dict[int, int]:
    """Map each APGD checkpoint below `steps` to the checkpoint before it.

    The shares of the steps are integers, in per cent: as a sum of floats, 57 per cent of 100 steps would be step 58.
    """
    shares = [0, 22]
    while shares[-1] < 100:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 3, 6))
    checkpoints = sorted({-(-share * steps // 100) for share in shares})
    return {later: earlier for earlier, later in pairwise(checkpoints) if later < steps}


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
    """Return adversarial examples of a named attack; the other arguments are those of `pgd`.

    `fgsm` takes one step of one radius from the image itself; `rs-fgsm` takes one step of 1.25 radii from a random
    point (Wong et al., ICLR 2020). Both ignore `step`, and `steps` unless it is 0. `apgd` supports L-inf only and
    ignores `step`. Returns the images unchanged if radius or steps is 0. Raises `ValueError` for an unknown attack, and
    for `apgd` in another norm.
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
        f"unknown attack {attack!r} in norm {norm}; known: {', '.join(get_args(Attack))} (apgd in norm linf only)"
    )


def attack_passes(attack: Attack, steps: int) -> int:
    """Return how many forward and backward passes `adversary` needs per image, without APGD's last forward pass."""
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
    """Return a network's accuracy on images (b, c, h, w) under PGD, as a scalar tensor on the images' device.

    The step size is 2.5 radii / steps (Madry et al., ICLR 2018, appendix). `Breaker.attacked_accuracy` uses it.
    """
    attacked = pgd(network, images, labels, radius=radius, steps=steps, step=2.5 * radius / steps, norm=norm)
    with frozen(network), torch.no_grad():
        correct: torch.Tensor = network(attacked).argmax(1) == labels
    return correct.float().mean()
