"""UEraser: strong random views of each training image, of which the network learns the one it finds hardest."""

from __future__ import annotations

from typing import Literal

import torch

import uebench
from uebench import Breaker, kit, parameter
from uebench_plugins.breakers.plasma import plasma
from uebench_plugins.breakers.randaugment_ops import OPERATIONS, apply

ROUGHNESS, INTENSITY = (0.3, 0.7), (0.5, 1.0)
"""Of the fractals, drawn for each image: the released code."""


class UEraser(Breaker):
    """Train on the hardest of several random views of each image, for a first share of the training or all of it.

    A view: brightness moved and contrast scaled by plasma fractals and channels shuffled, each with probability 1/2,
    then one operation of TrivialAugment (Müller and Hutter, ICCV 2021) at random strength. `standard` takes the hardest
    view at first and any view later, `max` always the hardest, `lite` always any.

    Hardest means by the loss of the network in eval mode, held fixed as for every attack; the released code takes the
    loss in training mode, of the passes it then learns from. That code draws one operation for a whole batch, from
    twelve that only bear these names; here every image draws its own, from those of RandAugment. The JPEG step it adds
    where the noise is TAP or AR takes knowledge that a breaker has not: `jpeg+ueraser` is always open.
    """

    name = "ueraser"
    version = 2
    paper = "Qin et al., Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example Attacks, 2023"

    mode: Literal["standard", "lite", "max"] = parameter(default="standard", doc="when the hardest view is taken")
    share: float = parameter(default=1 / 6, doc="first share of the steps that takes it in standard", low=0, high=1)
    repeat: int = parameter(default=5, doc="views to choose from", low=1)

    def attack(
        self, model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor, progress: float
    ) -> torch.Tensor:
        """Return a view of each image; raises `UserError` where images have neither 1 nor 3 channels."""
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
        """Return the looks that are taken on average; without the way back each is half a pass."""
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
