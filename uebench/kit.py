"""What plug-ins may borrow: pixels and their 8 bits, augmentation, the one PGD, and the loop of the EM family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from uebench.api import Context, Recipe
from uebench.sgd import Training

__all__ = [
    "Centre",
    "Training",
    "alternate",
    "crop_and_flip",
    "frozen",
    "pgd",
    "quantise",
    "to_bytes",
    "to_float",
]


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 pixels into float32 in [0, 1]."""
    return images.float() / 255


def to_bytes(images: Tensor) -> Tensor:
    """Round float pixels in [0, 1] to the nearest of uint8."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def quantise(delta: Tensor, radius: float) -> Tensor:
    """Round a noise to multiples of 1/255, to the nearest one within [-radius, radius]; float32 in and out.

    A radius that is no multiple of 1/255 rounds towards the clean image at the border, so that the 8-bit image
    keeps the budget.
    """
    most = math.floor(radius * 255 + 1e-6)
    return (delta * 255).round().clamp(-most, most) / 255


class Centre(Module):
    """Shift images from [0, 1] to [-0.5, 0.5]: the only normalisation of the REM code base."""

    def forward(self, images: Tensor) -> Tensor:
        """Return images - 0.5."""
        return images - 0.5


def crop_and_flip(images: Tensor, pad: int, flip: bool = True) -> Tensor:
    """Pad (b, c, h, w) with black, crop at random and mirror half of them; drawn per image, differentiable."""
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = torch.arange(height, device=device) + top
    pixels = rows[:, :, None] * (width + 2 * pad) + (columns + left)[:, None, :]
    index = pixels.view(count, 1, -1).expand(count, channels, -1)
    return F.pad(images, (pad,) * 4).flatten(2).gather(2, index).view_as(images)


@contextmanager
def frozen(network: Module) -> Iterator[None]:
    """Hold a network in eval mode with no gradient for its weights, and restore both on leaving.

    Running statistics stay untouched and dropout is off inside.
    """
    modes = [one for one in network.modules() if one.training]
    weights = [one for one in network.parameters() if one.requires_grad]
    for module in modes:
        module.training = False
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for module in modes:
            module.training = True
        for weight in weights:
            weight.requires_grad_(True)


def pgd(
    network: Module,
    images: Tensor,
    targets: Tensor,
    *,
    radius: float,
    steps: int,
    step: float,
    ascend: bool = True,
    random_start: bool = True,
) -> Tensor:
    """Projected gradient descent in the L-inf ball (Madry et al., ICLR 2018), as in the REM code.

    images: float32 (b, c, h, w) in [0, 1]; targets: labels (b,) or soft targets (b, classes). `radius` and `step` are
    in pixel range [0, 1]. Climbs the cross-entropy, or goes down it with `ascend=False`. The network is in eval mode
    meanwhile. Returns the last iterate, inside the ball and [0, 1]; with radius or steps 0 the images themselves.
    """
    if radius == 0 or steps == 0:
        return images
    lowest, highest = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    found = images.detach().clone()
    if random_start:
        found = (found + torch.empty_like(found).uniform_(-radius, radius)).clamp(lowest, highest)
    with frozen(network):
        for _ in range(steps):
            found.requires_grad_(True)
            loss = F.cross_entropy(network(found), targets, reduction="sum")
            (slope,) = torch.autograd.grad(loss, found)
            found = found.detach().add(slope.sign(), alpha=step if ascend else -step).clamp(lowest, highest)
    return found


def alternate(
    images: Tensor,
    labels: Tensor,
    context: Context,
    *,
    network: Module,
    recipe: Recipe,
    radius: float,
    make: Callable[[Tensor, Tensor], Tensor],
    view: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Alternate noise steps and surrogate steps, the loop that EM, REM and SEM share (REM, algorithm 1).

    `make(x, y)` returns the noise of a batch against the frozen surrogate; `view(x, y)` returns the images that the
    surrogate learns from, given protected ones. Noise is rounded as it will be released, and stored by image index.
    After the last surrogate step the noise of every image is made once more against the final surrogate; unlike the
    papers' code, which drops the incomplete last batch there, this pass leaves no image out.
    """
    training = Training(network, recipe, len(images), context.seed)
    delta = torch.zeros_like(images)
    kept = context.kept()
    if kept:
        training.resume(kept)
        delta.copy_(kept["delta"])
    sweep = torch.split(torch.arange(len(images), device=images.device), recipe.batch)
    for step in context.steps(recipe.steps + len(sweep)):
        learning = step < recipe.steps
        index = training.batch(step) if learning else sweep[step - recipe.steps]
        x, y = images[index], labels[index]
        with frozen(network):
            fresh = quantise(make(x, y), radius)
        delta[index] = fresh
        if learning:
            training.step(step, view((x + fresh).clamp(0, 1), y), y)
        context.keep(delta=delta, **training.state())
    return delta
