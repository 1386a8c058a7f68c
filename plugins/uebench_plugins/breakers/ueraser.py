"""UEraser: trains on strong random views of each image, at first on the view with the highest loss."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Breaker, kit, parameter
from uebench_plugins.breakers.plasma import plasma
from uebench_plugins.breakers.randaugment_ops import OPERATIONS, apply

ROUGHNESS, INTENSITY = (0.3, 0.7), (0.5, 1.0)
"""Ranges of the fractals, drawn for each image, as in the released code."""


class UEraser(Breaker):
    """Train on the hardest of several random views of each image, for a first share of the training or all of it.

    A view has three changes, each with probability 1/2: plasma fractals shift the brightness, they scale the contrast,
    and the channels are shuffled. Then one operation of TrivialAugment (Müller and Hutter, ICCV 2021) follows at random
    strength. `standard` takes the hardest view at first and any view later, `max` always the hardest, `lite` always
    any view.

    The hardest view has the highest loss of the network in eval mode, with fixed weights as for every attack. The
    released code takes the loss in training mode, from the passes that it then learns from. It draws one operation for
    a whole batch, from twelve operations that differ from those of TrivialAugment; here every image draws one of
    RandAugment's. It adds JPEG if the noise is TAP or AR; a breaker does not know the noise, but `jpeg+ueraser` can be
    used against every noise.
    """

    name = "ueraser"
    version = 2
    paper = "Qin et al., Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example Attacks, 2023"

    mode: Literal["standard", "lite", "max"] = parameter(default="standard", doc="when the hardest view is used")
    share: float = parameter(
        default=1 / 6, doc="share of the steps, from the start, that uses it in standard", low=0, high=1
    )
    repeat: int = parameter(default=5, doc="views to choose from", low=1)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return a view of each image; raises `UserError` for images with other than 1 or 3 channels."""
        if self.mode == "lite" or (self.mode == "standard" and progress >= self.share):
            return view(images)
        hardest, highest = images, torch.full_like(images[:, 0, 0, 0], -torch.inf)
        with kit.frozen(model), torch.no_grad():
            for draws in kit.parts(self.repeat, images):
                many = view(torch.cat([images] * draws))
                losses = torch.nn.functional.cross_entropy(model(many), torch.cat([targets] * draws), reduction="none")
                loss, draw = losses.view(draws, -1).max(0)
                seen = many.view(draws, *images.shape)[draw, torch.arange(len(images), device=images.device)]
                harder = loss > highest
                hardest = torch.where(harder.view(-1, 1, 1, 1), seen, hardest)
                highest = torch.where(harder, loss, highest)
        return hardest

    def passes(self) -> float:
        """Return the mean number of passes per image; a forward pass alone counts as half."""
        return {"lite": 0, "standard": self.share, "max": 1}[self.mode] * self.repeat / 2


def view(images: torch.Tensor) -> torch.Tensor:
    """Return one random view of each image (b, c, h, w) in [0, 1]."""
    count, channels = images.shape[:2]
    brighter, contrasted, shuffled = torch.rand(3, count) < 0.5
    # The host draws what is small, and sends it to the device without a wait. An image that does not get a change has
    # numbers of no effect: of what brightness moves by, and of the factor of contrast, which is kept + gain * map.
    numbers = torch.empty(5, count)
    numbers[:2].uniform_(*ROUGHNESS)
    numbers[2] = 2 * torch.empty(count).uniform_(*INTENSITY) * brighter
    numbers[3], numbers[4] = ~contrasted, 4 * contrasted
    order = torch.where(shuffled[:, None], torch.rand(count, channels).argsort(1), torch.arange(channels))
    numbers, order = (drawn.to(images.device, non_blocking=True) for drawn in (numbers, order))
    move, kept, gain = numbers[2:, :, None, None, None]
    maps = plasma(torch.Size((2 * count, *images.shape[1:])), numbers[:2].flatten())
    images = torch.addcmul(images, move, maps[:count] - 0.5).clamp_(0, 1)
    middle = torch.full((), 0.5, device=images.device)
    images = torch.lerp(middle, images, torch.addcmul(kept, gain, maps[count:])).clamp_(0, 1)
    images = images.gather(1, order[:, :, None, None].expand_as(images))
    return apply(images, torch.randint(len(OPERATIONS), (count,)), torch.empty(count).uniform_(-1, 1))


@uebench.hookimpl
def register_breakers() -> list[type[Breaker]]:
    """Register this module's breakers."""
    return [UEraser]
